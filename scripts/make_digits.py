"""Write lowmem/data/datasets/digits.npz, the data of the demo, from scikit-learn's copy of the UCI digits.

Source: E. Alpaydin and C. Kaynak (1998), Optical Recognition of Handwritten Digits, UCI Machine Learning
Repository, https://doi.org/10.24432/C50P49, licence CC BY 4.0. scikit-learn's `load_digits` is the test part
(optdigits.tes, 1797 images from 13 writers), the values of which are whole numbers 0..16 stored as float64.

Needs scikit-learn (`pip install -e ".[peers]"`). Run: python scripts/make_digits.py
"""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

TARGET = Path(__file__).resolve().parent.parent / "lowmem" / "datasets" / "digits.npz"


def main() -> None:
    """Convert to uint8, which loses nothing, check that, and write the file."""
    images, digits = load_digits(return_X_y=True)
    x, y = images.astype(np.uint8), digits.astype(np.uint8)
    if not (np.array_equal(x, images) and np.array_equal(y, digits)):
        raise SystemExit("the digits are not whole numbers 0..255; nothing was written.")
    np.savez_compressed(TARGET, x=x, y=y)
    print(f"{TARGET.name}: x {x.shape}, y {y.shape}, {TARGET.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
