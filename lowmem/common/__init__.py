"""What every floor uses: tables, checks of what users give, random generators."""
