"""The sources that `modiff import` knows: what each is, its layout on disk in words, and the arguments it takes.

Nothing heavy is loaded here, so that help is instant: a source's `Importer` is loaded when it is read.
"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modiff.config.data import SplitConfig
from modiff.config.help import verb_parser
from modiff.config.phantom import PhantomConfig

_USUAL = PhantomConfig()


@dataclass(frozen=True)
class Entry:
    """One source. importer: its class, in a module of this package. line: for the list of sources.

    text: what `modiff import NAME --help` prints: what the source is, its layout, what is refused. arguments: name or
    --option -> what `ArgumentParser.add_argument` takes, of what the source needs to be known; the output and the
    splits are added for all. dealt: whom val and test take a fraction of.
    """

    importer: str
    line: str
    text: str
    arguments: Mapping[str, Mapping[str, Any]]
    split_options: tuple[str, ...] = ("splits", "val", "test", "split-seed", "folds")
    dealt: str = "patients"


def _again(metavar: str, words: str, **more: Any) -> dict[str, Any]:
    """An option that may be given several times."""
    return {"action": "append", "metavar": metavar, "help": f"{words}; may be given again", **more}


IMPORTERS: dict[str, Entry] = {}  # by the name on the command line
IMPORTERS["lidc-dicom"] = Entry(
    "lidc_dicom.run.LidcDicom",
    "LIDC-IDRI from TCIA: DICOM slices and the radiologists' XML",
    """The original LIDC-IDRI as TCIA distributes it: CT slices as DICOM, what each radiologist outlined as XML.

    Sources are folders, at any depth below which lie patients' folders named LIDC-IDRI-0001 and so on:

      LIDC-IDRI-0001/<study>/<series>/*.dcm, *.xml

    (a folder of another data set in this form works too: its first folders are the patients). XML files may lie beside
    the slices or elsewhere: --xml takes more folders or zip archives, such as TCIA's LIDC-XML-only.zip. An XML belongs
    to the series that it names; radiographs and derived objects are left out.

    One case is one slice of one nodule of 3 mm or more, <patient>/nodule-<k>/slice-<i>, counted from the lowest slice
    up: a crop of 128×128 pixels around the nodule (the mean of its outlines' centres of mass), the same window on all
    its slices, every slice on which any rater outlined it. HU from -1000 to 400 become 0 to 255. Pixels are the
    scanner's unless --spacing says otherwise.

    Outlines are the first pixels outside a nodule: what lies strictly inside is filled, exclusion regions are cut out.
    They are matched to slices by SOP instance UID. Two raters' outlines are one nodule if they overlap or are at most
    one slice step apart, the closest first, at most one outline per rater. There are as many rater slots as the series
    with the most reading sessions has (four, as a rule). A rater who read a series and outlined nothing on a slice has
    an empty mask there; the slots beyond a series' sessions are marked as not read. Slots are exchangeable between
    series.

    Interrupted, the same command resumes: patients that are done are kept in .STORE.partial until the store is whole.
    Refused, with the patient: damaged files, slices that differ in size or direction, two files that claim to be one
    slice, outlines that leave the slice, XML with a DTD. --keep-going leaves such patients out and lists them.
    LIDC-IDRI is CC BY 3.0: Armato et al., doi 10.7937/K9/TCIA.2015.LO9QL9SX.
    """,
    {
        "folders": {"nargs": "+", "metavar": "FOLDER", "help": "folders in the layout above"},
        "--xml": {"nargs": "+", "default": [], "metavar": "PATH", "help": "more folders or zip archives with XML"},
        "--spacing": {"type": float, "metavar": "MM", "help": "mm per pixel of all crops; without it the scanner's"},
        "--keep-going": {"action": "store_true", "help": "leave out patients that fail, and list them"},
        "--jobs": {"type": int, "metavar": "N", "help": "patients at a time; without it as many as there are cores"},
    },
)
IMPORTERS["lidc-slices"] = Entry(
    "lidc_png.LidcPng",
    "LIDC-IDRI nodule crops as PNG files, four radiologists; zips or folders",
    """LIDC-IDRI nodule crops in the widely distributed PNG layout, each outlined by four radiologists.

    Sources are zip archives or folders; several make one store. In each, anywhere below the top:

      <patient>/nodule-<k>/images/slice-<i>.png      8-bit grey, all of one size
      <patient>/nodule-<k>/mask-<r>/slice-<i>.png    8-bit grey, 0 or 255; r = 0, 1, … per radiologist

    An empty mask is a radiologist who read the slice and outlined nothing there. The slots are exchangeable: mask-0 of
    two nodules may be two people. A case is named <patient>/<nodule>/<slice>, e.g. LIDC-IDRI-0011/nodule-0/slice-3.
    --centre 64 keeps the central square of 64 pixels, for quick comparisons: large nodules lose their rim. Where one of
    the two sides is odd and the other even, the centre moves by half a pixel.

    Splits are by patient: from --splits, a JSON file {"train": [patients], "val": [patients], "test": [patients]}, or
    by a hash of the patient's name, which anyone can repeat (--val, --test, --split-seed).

    Refused, with the file's name: missing masks, sizes that differ, mask values other than 0 and 255, a patient in two
    splits or in none, the same case twice, damaged archives and PNG files, names that lead out of the archive, archives
    that inflate beyond reason. LIDC-IDRI is CC BY 3.0: Armato et al., doi 10.7937/K9/TCIA.2015.LO9QL9SX.
    """,
    {
        "paths": {"nargs": "+", "metavar": "SOURCE", "help": "zip archives or folders in the layout above"},
        "--centre": {
            "type": int,
            "metavar": "SIDE",
            "help": "keep only the central square of so many pixels (the whole image)",
        },
    },
)
IMPORTERS["lidc-pickle"] = Entry(
    "lidc_arrays.LidcPickle",
    "LIDC-IDRI nodule crops in data_lidc.pickle, read without running it",
    """LIDC-IDRI nodule crops in data_lidc.pickle, as distributed with the Probabilistic U-Net's PyTorch version.

    The file is a pickled dictionary with an entry per slice (15,096 of them):

      name -> {"image": (H,W) in [0,1], "masks": four arrays (H,W) of 0 and 1, "series_uid": text}

    It is read without running anything in it: NumPy arrays in plain containers and nothing else, protocol 2 to 5. It
    takes about as much memory as the file is large. An empty mask is a radiologist who read the slice and outlined
    nothing; the four slots are exchangeable.

    A patient is the series, or LIDC-IDRI-xxxx where the entry's name begins with that. Splits are by patient: from
    --splits (JSON), or by a hash. LIDC-IDRI is CC BY 3.0: Armato et al., doi 10.7937/K9/TCIA.2015.LO9QL9SX.
    """,
    {
        "file": {"metavar": "PICKLE", "help": "data_lidc.pickle"},
        "--max-bytes": {
            "type": int,
            "default": 16 << 30,
            "metavar": "N",
            "help": "largest file that is read (default 16 GiB)",
        },
    },
)
IMPORTERS["lidc-hdf5"] = Entry(
    "lidc_arrays.LidcHdf5",
    "LIDC-IDRI nodule crops in data_lidc.hdf5, as CCDM and PHiSeg make it",
    """LIDC-IDRI nodule crops in data_lidc.hdf5, the form that CCDM, PHiSeg and others make of data_lidc.pickle.

    The file has the groups train, val and test, each with

      images   (n,H,W) floats from −0.5 to 0.5
      labels   (n,4,H,W) as CCDM writes it, or (n,H,W,4) as PHiSeg does: 0 and 1, one per radiologist
      uids     (n,) a whole number that stands for the CT series

    Splits are the file's groups. A patient is the series, by its number: the file knows no more, and LIDC-IDRI has a
    few patients with two series, who may be in two of its splits. An empty mask is a radiologist who read the slice and
    outlined nothing; the four slots are exchangeable.

    Refused: a series in two groups, other values, links, data stored elsewhere or through foreign filters, files that
    would inflate beyond reason. LIDC-IDRI is CC BY 3.0: Armato et al., doi 10.7937/K9/TCIA.2015.LO9QL9SX.
    """,
    {"file": {"metavar": "HDF5", "help": "data_lidc.hdf5"}},
    split_options=(),
)
IMPORTERS["cimd-folder"] = Entry(
    "cimd.Cimd",
    "slices in the layout of CIMD's code: JPEG images and masks",
    """LIDC-IDRI or MS slices in the layout of CIMD's code: JPEG images and JPEG masks of every rater.

      ROOT/training/<id>/image_<n>.jpg        grey; or image-<channel>_<n>.jpg for each channel
      ROOT/training/<id>/label<r>_.jpg        the mask of rater r = 0, 1, …
      ROOT/testing/<id>/…                     the same

    JPEG smears a mask's 0 and 255 into values around them: masks are cut at 128. A mask that holds something, but
    nothing above 127, was written from 0 and 1 and is lost to the compression: it is refused.

    The layout names no patients. Each <id> counts as a patient of its own, so neighbouring slices of one nodule can be
    in two splits, unless --table, a CSV with the columns case (such as training/0), patient and perhaps split, says
    whose they are. Without splits in the table, training is dealt into train and val by hash (--val), and testing is
    test.

    Refused, with the file's name: missing masks, sizes that differ, colours, damaged files, a patient in two splits.
    """,
    {
        "root": {"metavar": "ROOT", "help": "the folder that holds training and testing"},
        "--table": {"metavar": "CSV", "help": "columns case, patient and perhaps split"},
        "--class-name": {"default": "lesion", "metavar": "NAME", "help": "what is marked (default %(default)s)"},
        "--identifiable": {"action": "store_true", "help": "label<r> is the same person everywhere (MS data)"},
        "--prompt": {
            "choices": ("centre", "none"),
            "default": "centre",
            "help": "whether an image's centre says which lesion is meant (default %(default)s, as in LIDC's crops)",
        },
        "--source": {
            "default": "slices in CIMD's JPEG layout (Rahman et al., CVPR 2023)",
            "metavar": "WORDS",
            "help": "what the data is, for the store's record",
        },
        "--licence": {"default": "unknown", "metavar": "WORDS", "help": "its licence"},
    },
    split_options=("val", "split-seed"),
    dealt="training",
)
IMPORTERS["isbi-ms"] = Entry(
    "isbi_ms.IsbiMs",
    "MS lesions of the ISBI 2015 challenge: NIfTI, two raters, four modalities",
    """MS lesions in longitudinal MRI, ISBI 2015 challenge: two raters, four modalities, five people's 4 or 5 scans.

      ROOT/training<ss>/preprocessed/training<ss>_<tt>_<modality>_pp.nii  flair, mprage, pd, t2
      ROOT/training<ss>/masks/training<ss>_<tt>_mask1.nii                 and mask2; also .nii.gz

    The raters are two persons and keep their names. Modalities are channels, each scaled between two percentiles of its
    volume (--percentiles). Slices are axial; only those that a rater marked, unless --all-slices. How a slice of
    181×217 becomes one of --size is a choice that has to be made: --fit crop, which keeps the pixels of 1 mm and cuts
    about the centre, or --fit resize, which keeps the whole slice and changes the pixels' size.

    Splits and folds are by person (training01 … training05), never by slice: the same five people would be in training
    and test. With --folds 5, training holds one out at a time. The data needs registration at
    https://smart-stats-tools.org/lesion-challenge (Carass et al., NeuroImage 148, 2017).

    Refused, with the file's name: a scan without one of its six files, modalities or masks on different grids, mask
    values other than 0 and 1, damaged files.
    """,
    {
        "root": {"metavar": "ROOT", "help": "the folder that holds training01 to training05"},
        "--fit": {
            "choices": ("crop", "resize"),
            "required": True,
            "help": "crop about the centre, or resize the whole slice",
        },
        "--size": {"default": "128x128", "metavar": "HxW", "help": "of the slices (default %(default)s, the paper's)"},
        "--percentiles": {
            "default": "1:99",
            "metavar": "LOW:HIGH",
            "help": "of each volume, that become 0 and 1 (default %(default)s)",
        },
        "--all-slices": {"action": "store_true", "help": "also slices that neither rater marked"},
    },
)
IMPORTERS["folder"] = Entry(
    "folder.Folder",
    "your own images and masks of several raters: png, tif, npy, NIfTI or DICOM in folders",
    """Your own data: a folder of images, and of every rater's masks, in any common format.

    By default, anywhere below ROOT:

      <case>/image.EXT              or one file per channel: <case>/image-<channel>.EXT
      <case>/rater-<name>.EXT       the mask of each rater

    EXT is png, tif, npy, nii, nii.gz or dcm; <case>/image/ may be a folder with a DICOM series. An array (npy) is
    (H,W), an image's may be (channels,H,W), a mask's (slices,H,W). <case> may span folders; its first folder is the
    patient. Other layouts by patterns, e.g.

      --image 'scans/{case}.nii.gz' --mask 'readings/{rater}/{case}.nii.gz'
      --image '{patient}/{case}/{channel}.nii.gz' --mask '{patient}/{case}/mask_{rater}.nii.gz'

    A CSV (--table) with the column case, and any of patient, split and readers (names separated by semicolons), says
    what names cannot: a rater named there whose mask is absent marked nothing, a rater who is not named did not read
    the case. Without it every rater's mask must be there, or --missing says what its absence means.

    Volumes are cut into slices that keep their place: affine, slice index and spacing. Only slices that a rater marked
    are kept, unless --all-slices. Images of 8 or 16 bits keep their values; others need --intensity.

    Refused, with the file's name: masks on another grid than the image (--resample nearest moves them), channels that
    are not registered, mask values without a meaning, values that are not finite, volumes whose axes run differently
    (--plane turns them), images of different sizes (--size), a patient in two splits, links that lead out of the
    folder.
    """,
    {
        "root": {"metavar": "ROOT", "help": "the folder"},
        "--image": _again("PATTERN", "where images lie, with {case} and perhaps {patient}, {slice}, {channel} and *"),
        "--mask": _again("PATTERN", "where masks lie, with {case} and {rater}"),
        "--table": {"metavar": "CSV", "help": "patient, split and readers of each case"},
        "--missing": {
            "choices": ("refuse", "empty", "unread"),
            "default": "refuse",
            "help": "what an absent mask means: an error (default), the rater marked nothing, or did not read the case",
        },
        "--label": _again(
            "VALUE=CLASS", "the class that a mask's value stands for; without it 0 and 1, or 0 and 255", default=[]
        ),
        "--foreground": {
            "default": "foreground",
            "metavar": "NAME",
            "help": "name of the one class where no --label is given (default %(default)s)",
        },
        "--intensity": {
            "default": "unit",
            "metavar": "RULE",
            "help": "unit (8 or 16 bits, or floats in [0,1], as they are; the default), minmax-slice, window:LOW:HIGH, "
            "or percentiles:LOW:HIGH of the volume",
        },
        "--resample": {"choices": ("nearest",), "help": "move masks on other grids onto the image's"},
        "--plane": {
            "choices": ("native", "axial", "coronal", "sagittal"),
            "default": "native",
            "help": "how volumes are cut: as stored (default), or turned to a plane of the patient",
        },
        "--all-slices": {"action": "store_true", "help": "also keep slices of volumes that nobody marked"},
        "--size": {"metavar": "HxW", "help": "crop or pad every slice about its centre, e.g. 128x128"},
        "--prompt": {
            "choices": ("none", "centre"),
            "default": "none",
            "help": "centre: an image's centre says which lesion the raters judged (default %(default)s)",
        },
        "--exchangeable": {"action": "store_true", "help": "rater names are slots, not persons"},
        "--max-bytes": {"type": int, "metavar": "N", "help": "largest file or volume that is read (default 2 GiB)"},
        "--source": {"default": "own data", "metavar": "WORDS", "help": "what the data is, for the store's record"},
        "--licence": {"default": "unknown", "metavar": "WORDS", "help": "its licence"},
    },
)
IMPORTERS["phantom"] = Entry(
    "phantom.Phantom",
    "simulated nodules with simulated raters whose true distribution is known",
    """Simulated lung nodules, each outlined by simulated raters whose true distribution of masks is known.

    Nothing is read and nothing is downloaded. Every image shows a lesion at its centre, solid or with a ground-glass
    halo, plain or so faint that few raters or none mark it, among vessels, look-alikes and sometimes the chest wall.
    Raters are fresh at each image, so the rater slots are exchangeable; images that nobody marks stay in. The same
    options give the same store. Splits are by patient: of every thirty patients three are test and two val, whatever
    their number.

    In Python, modiff.data.phantom.case.load_phantom_case draws any number of further raters for a case of the store.
    """,
    {
        f"--{name.replace('_', '-')}": {
            "type": type(getattr(_USUAL, name)),
            "default": getattr(_USUAL, name),
            "metavar": metavar,
            "help": f"{words} (default %(default)s)",
        }
        for name, metavar, words in (
            ("size", "PIXELS", "width and height of the images"),
            ("spacing", "MM", "width of a pixel"),
            ("raters", "R", "raters per image"),
            ("patients", "N", "number of patients"),
            ("images_per_patient", "N", "images per patient"),
            ("seed", "SEED", "seed of all that is simulated"),
        )
    },
    split_options=("folds",),
)


def import_parser(name: str, prog: str) -> argparse.ArgumentParser:
    """All arguments of `modiff import NAME`; its help is the entry's text."""
    entry = IMPORTERS[name]
    parser = verb_parser(prog, inspect.cleandoc(entry.text))
    for option, details in entry.arguments.items():
        parser.add_argument(option, **details)
    parser.add_argument("-o", "--output", required=True, metavar="STORE", help="the store to write, e.g. data.h5")
    parser.add_argument("--overwrite", action="store_true", help="replace the store if it exists")
    usual, of = SplitConfig(), f"fraction of {entry.dealt}"
    options: dict[str, dict[str, Any]] = {
        "splits": {"metavar": "JSON", "help": "patients of each split; without it they are dealt by a hash"},
        "val": {"type": float, "default": usual.val, "help": f"{of} for val (default %(default)s)"},
        "test": {"type": float, "default": usual.test, "help": f"{of} for test (default %(default)s)"},
        "split-seed": {"type": int, "default": usual.seed, "help": "seed of the hash (default %(default)s)"},
        "folds": {"type": int, "metavar": "K", "help": "also deal patients into K folds for cross-validation"},
    }
    for option in entry.split_options:
        parser.add_argument(f"--{option}", **options[option])
    return parser
