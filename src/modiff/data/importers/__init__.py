"""The sources of multi-rater data that `modiff import` knows; a module is loaded when its source is asked for."""

# Name -> (class, in a module of this package; one line for `modiff import --help`).
IMPORTERS = {
    "lidc-dicom": ("lidc_dicom.run.LidcDicom", "LIDC-IDRI from TCIA: DICOM slices and the radiologists' XML"),
    "lidc-slices": ("lidc_png.LidcPng", "LIDC-IDRI nodule crops as PNG files, four radiologists; zips or folders"),
    "lidc-pickle": ("lidc_arrays.LidcPickle", "LIDC-IDRI nodule crops in data_lidc.pickle, read without running it"),
    "lidc-hdf5": ("lidc_arrays.LidcHdf5", "LIDC-IDRI nodule crops in data_lidc.hdf5, as CCDM and PHiSeg make it"),
    "cimd-folder": ("cimd.Cimd", "slices in the layout of CIMD's code: JPEG images and masks"),
    "isbi-ms": ("isbi_ms.IsbiMs", "MS lesions of the ISBI 2015 challenge: NIfTI, two raters, four modalities"),
    "folder": (
        "folder.Folder",
        "your own images and masks of several raters: png, tif, npy, NIfTI or DICOM in folders",
    ),
    "phantom": ("phantom.Phantom", "simulated nodules with simulated raters whose true distribution is known"),
}
