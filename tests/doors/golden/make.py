"""Makes the golden .h5ad files, in an environment with anndata: python tests/doors/golden/make.py.

They were made by anndata 0.12.19. It is not among the tests' packages, because it holds pandas below 3.
"""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import scipy.sparse

FOLDER = Path(__file__).parent
CLIPS = ["b2", "a1", "c3"]


def columns() -> pd.DataFrame:
    """A column of every kind."""
    return pd.DataFrame(
        {
            "label": pd.Categorical(["joy", None, "fear"]),
            "age": [31, 40, 50],
            "score": [0.5, np.nan, 1],
            "ok": [True, False, True],
            "name": ["x", "y", "z"],
            "take": pd.array([1, None, 3], dtype="Int64"),
            "acted": pd.array([True, None, False], dtype="boolean"),
        },
        index=CLIPS,
    )


def main() -> None:
    """Write both files."""
    x = np.array([[0, 1.5, 0], [2, 0, 0], [0, 0, -0.25]], dtype=np.float32)
    pca = np.arange(6.0).reshape(3, 2) / 8
    sparse = anndata.AnnData(X=scipy.sparse.csr_matrix(x), obs=columns(), obsm={"X_pca": pca})
    sparse.write_h5ad(FOLDER / "sparse.h5ad")
    obs = pd.DataFrame({"label": ["happy", "sad", "sad"], "speaker": ["00", "01", "02"]}, index=CLIPS).astype(
        "category"
    )
    parts = {f"layer_{layer}": np.zeros((3, 7), dtype=np.float16) for layer in (3, 7)}
    layers = anndata.AnnData(obs=obs, obsm=parts, uns={"emocache": "{}"})
    layers.write_h5ad(FOLDER / "layers.h5ad")
    vectors = anndata.AnnData(X=np.zeros((3, 7), dtype=np.float16), obs=obs, uns={"emocache": "{}"})
    vectors.write_h5ad(FOLDER / "vectors.h5ad")


if __name__ == "__main__":
    main()
