"""LIDC-IDRI as TCIA distributes it: what its XML says, and what that means for the slices."""
