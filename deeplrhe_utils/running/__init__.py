"""The runner (papermill underneath), the notebooks' record of what they read and wrote, and the Dask engine."""
