"""Vectors in place of slides, as any encoder's program left them: one neutral form, read lazily, written losslessly."""
