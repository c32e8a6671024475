"""What a synthetic section looks like: tissue, nuclei, artefacts, light."""
