"""Open slides, lay grids, read tiles, judge them.

- `decoding`: where a TIFF's compressed tiles lie, and JPEG decoded at the scale that is wanted
- `reading`: open a file, know its resolution, read tiles and overviews
- `files`: the slides of a folder, usable or excluded with a reason; DICOM; resolution guessed from nuclei; OME-TIFF
- `outlines`: a pathologist's outlines in any known format
- `quality`: glass, pen, folds, bubbles, blur, compression damage
- `tiles`: the grid, the candidate tiles, which of them are kept, their pixels
"""
