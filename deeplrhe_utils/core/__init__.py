"""What every room stands on: errors, files, paths, tables and their schemas, seeds, units.

- `errors`: messages that say what happened, where, got, expected and the next move
- `files`, `paths`, `signing`: atomic files, hashes, whose a folder is; where things lie; signed documents
- `tables`: every table between notebooks, checked when it is written and when it is read; the reader of foreign ones
- `seeds`, `units`, `text`: random draws as functions of names; pixels and frames as types; escaping
"""
