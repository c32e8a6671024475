"""The Imaging Data Commons: slides as DICOM series, from its published index and its open buckets."""
