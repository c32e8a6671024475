"""The viewer in JupyterLab."""
