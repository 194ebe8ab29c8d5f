"""Tables as text for people: exactly these characters."""

import re

import lowmem as lm
from lowmem.common.tables import Table

SMALL = Table(
    "Bytes of a step", ["where", "bytes", "what"], [["arena", "1.5 KiB", "states"], ["σ", "8 B", ""]], "done"
)


def test_a_table_is_set_in_columns_with_title_and_note() -> None:
    assert str(SMALL).splitlines() == [
        "Bytes of a step",
        "",
        " where     bytes     what",
        " ────────────────────────",
        " arena   1.5 KiB   states",
        " σ           8 B",
        "",
        "done",
    ]


def test_a_table_as_markdown() -> None:
    assert SMALL.markdown().splitlines() == [
        "Bytes of a step",
        "",
        "| where | bytes | what |",
        "|:--|--:|--:|",
        "| arena | 1.5 KiB | states |",
        "| σ | 8 B |  |",
        "",
        "done",
    ]


def test_a_title_may_be_left_out() -> None:
    assert str(SMALL.without_title()).splitlines() == str(SMALL).splitlines()[2:]
    assert SMALL.without_title().rows == SMALL.rows
    assert str(Table("", ["a"], [["b"]])).splitlines()[-1] == " b"


def test_what_looks_like_markup_is_printed_as_it_is() -> None:
    text = str(Table("[bold]title[/bold]", ["[red]head"], [["[cell]"], [":smile:"]], "[note] :smile:"))
    for words in ("[bold]title[/bold]", "[red]head", "[cell]", ":smile:", "[note] :smile:"):
        assert words in text


def test_long_rows_and_notes_are_not_wrapped_and_have_no_colour() -> None:
    text = str(Table("word " * 80, ["a", "b"], [["x" * 150, "y" * 150]], "word " * 80))
    assert "x" * 150 + "   " + "y" * 150 in text
    assert text.splitlines().count(("word " * 80).rstrip()) == 2
    assert "\x1b" not in text
    assert all(line == line.rstrip() for line in text.splitlines())


def test_a_plan_is_a_table_of_where_every_byte_goes() -> None:
    plan = lm.plan(lm.Architecture((4, *[8] * 9, 3), "tanh"), 64, "1MiB", "adam", "sqrt", micro_batch=32)
    lines = str(plan).splitlines()
    assert lines[0] == "10 layers (4, 8 x 9, 3), tanh, cross_entropy, float32, 643 parameters"
    assert lines[1] == f"batch 64 in 2 passes of 32, {plan.engine} engine"
    assert lines[2] == ""
    assert lines[3].split() == ["where", "bytes", "what"]
    assert set(lines[4].strip()) == {"─"}
    names = ["parameters", "gradients", "optimizer", "activation arena", "batch", "overhead", "peak, promised"]
    assert [next(name for name in names if line.startswith(f" {name}")) for line in lines[5:12]] == names
    assert lines[5].split()[1:3] == ["2.5", "KiB"]
    assert lines[11].endswith("of a budget of 1.0 MiB")
    assert lines[12] == ""
    assert lines[13].startswith("strategy sqrt: 30 layer forwards a step (20 without recomputation), ")
    assert len(lines) == 14


def test_a_comparison_is_a_table_with_a_row_for_each_question() -> None:
    # There are no times without a cost model, so there is no column for them.
    lines = str(lm.compare(lm.Architecture((4, *[8] * 9, 3)), 64, ["1MiB", 500])).splitlines()
    heads = [
        "strategy",
        "pass",
        "peak",
        "activations",
        "of storing all",
        "layer forwards",
        "FLOP factor",
    ]
    assert re.split(r"\s{2,}", lines[3].strip()) == heads
    assert [line.strip().split("  ")[0] for line in lines[5:]] == [
        "store_all",
        "sqrt",
        "recompute_all",
        "budget 1MiB",
        "budget 500 B",
    ]
    assert "does not fit" in lines[-1]


def test_columns_without_anything_in_them_are_not_shown() -> None:
    table = Table("", ["", "one", "none", "two"], [["a", "1", "", ""], ["b", "", "", "2"]])
    for text in (str(table), table.markdown()):
        assert "none" not in text
        assert all(shown in text for shown in ("one", "two", "1", "2"))
    assert str(Table("", ["head"], [])).strip().startswith("head")
    assert "none" in table.columns
