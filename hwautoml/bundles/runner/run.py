#!/usr/bin/env python3
"""Classify images with the model in this folder.

    python run.py photo.jpg [more.png ...] [--top 3] [--runtime onnxruntime|tvm] [--json]
    python run.py --check          # run the packed samples and compare with the expected probabilities

Needs numpy, Pillow and one runtime (see requirements.txt): neither torch nor hwautoml. Files that are not those of
manifest.json and manifest.sha256 are refused: damage is found so, and no forgery, which would change these two as well.

Exit codes: 0 done, 2 wrong usage, 3 an image could not be read, 7 --check found a difference,
8 the runtime cannot run the model, 10 this folder is incomplete or damaged, 11 a package is missing.
"""

import sys

if __name__ == "__main__" and not getattr(sys.flags, "safe_path", sys.flags.isolated):
    del sys.path[0]  # this folder: whatever else may lie in it is not imported

import argparse
import contextlib
import ctypes
import hashlib
import importlib
import importlib.util
import io
import json
import os
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

SCHEMA = "hwautoml-bundle/1"
MANIFEST, SEAL = "manifest.json", "manifest.sha256"  # the second is as sha256sum writes and checks it
# What is opened here; a bundle's further runtimes bring their own openers in runtimes/.
MODEL_FILES = {"onnxruntime": "model.onnx", "tvm": "model_tvm.so"}
OPENERS_FOLDER = "runtimes"
PIP_NAMES = {
    "numpy": "numpy",
    "PIL": "Pillow",
    "onnxruntime": "onnxruntime",
    "tvm": "apache-tvm",
    "tvm_ffi": "apache-tvm-ffi",
}
# A damaged manifest must not ask for an image that fills the memory.
MAX_SIDE = MAX_THREADS = 8192
MAX_MANIFEST_BYTES = 64 << 20
FIELDS = {"default_runtime": str, "num_threads": int, "classes": list, "input": dict, "samples": list, "files": dict}
# The formats, and the steps in `read_image`, are those the training images went through.
IMAGE_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")  # more than 8 bits
PART_PIXELS, PADDING = 1 << 20, 128
# What Pillow's decoders, and its reader of EXIF, report damage by.
DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    TypeError,
    OverflowError,
    zlib.error,
    struct.error,
)

EXIT_BAD_IMAGE, EXIT_CHECK_FAILED, EXIT_BAD_MODEL, EXIT_BAD_BUNDLE, EXIT_MISSING_PACKAGE = 3, 7, 8, 10, 11

Classify = Callable[[Any], Any]


class BundleError(Exception):
    """The text is for the user; ``exit_code`` for the caller's script."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    for stream in (sys.stdout, sys.stderr):  # names that the terminal's encoding lacks end nothing
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy would start a thread per core, for nothing to do
    folder = Path(__file__).resolve().parent
    try:
        manifest = read_manifest(folder)
        for name in manifest["files"] if options.check else ("run.py",):
            verified_file(folder, manifest, name)
        answer_kind(manifest)
        runtime = options.runtime or manifest["default_runtime"]
        classify = open_model(folder, manifest, runtime, options.threads or manifest["num_threads"])
        if options.check:
            return check_samples(folder, manifest, runtime, classify)
        return classify_files(options, manifest, runtime, classify)
    except BundleError as error:
        print(f"run.py: {shown(str(error))}", file=sys.stderr)
        return error.exit_code


def shown(text: str) -> str:
    """File names may hold what ends a line or steers a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Classify images with the model in this folder.")
    parser.add_argument("images", nargs="*", type=Path, metavar="IMAGE", help="image file")
    parser.add_argument("--runtime", choices=runtime_names(), help="default: the faster one when measured")
    parser.add_argument("--top", type=int, default=3, metavar="K", help="classes shown of a ranking (default 3)")
    parser.add_argument("--threads", type=int, metavar="N", help="default: as when the latency was measured")
    parser.add_argument("--json", action="store_true", help="print JSON, one list for all images")
    parser.add_argument("--check", action="store_true", help="compare the packed samples with what is expected")
    options = parser.parse_args(arguments)
    if bool(options.images) == options.check:
        parser.error("name at least one image, or --check")
    if options.top < 1 or (options.threads is not None and options.threads < 1):
        parser.error("--top and --threads must be at least 1")
    return options


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a runner relies on is there, of its type and within bounds."""
    path = folder / MANIFEST
    if not path.is_file():
        raise BundleError(f"{path} is missing: copy the whole folder", EXIT_BAD_BUNDLE)
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise ValueError(f"it has {path.stat().st_size} bytes")
        data = path.read_bytes()
        _check_seal(folder / SEAL, data)
        manifest = json.loads(data.decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path} is damaged ({error}): copy the folder again", EXIT_BAD_BUNDLE) from error
    problem = manifest_problem(manifest)
    if problem is not None:
        raise BundleError(f"{path}{problem}", EXIT_BAD_BUNDLE)
    return manifest


def seal_text(manifest: bytes) -> str:
    """The content of manifest.sha256."""
    return f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST}\n"


def _check_seal(path: Path, manifest: bytes) -> None:
    """Bundles of before have none."""
    wanted = seal_text(manifest).encode()
    if path.exists() and (not path.is_file() or path.stat().st_size != len(wanted) or path.read_bytes() != wanted):
        raise BundleError(
            f"{path.with_name(MANIFEST)} is not the one this bundle was made with: its sha256 is not in {SEAL}; copy "
            f"the folder again (changed on purpose: sha256sum {MANIFEST} > {SEAL})",
            EXIT_BAD_BUNDLE,
        )


def manifest_problem(manifest: Any) -> str | None:
    """What is wrong with it, to be read after its path; None where a runner can rely on it."""
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        found = manifest.get("schema") if isinstance(manifest, dict) else None
        return f" has schema {found!r:.80}, this version reads {SCHEMA!r}"
    for name, kind in FIELDS.items():
        if not isinstance(manifest.get(name), kind):
            return f": {name!r} must be a {kind.__name__}, got {manifest.get(name)!r:.80}"
    classes, shape, files = manifest["classes"], manifest["input"], manifest["files"]
    if not classes or not all(isinstance(name, str) for name in classes):
        return f": 'classes' must be names, got {classes!r:.80}"
    for name, most in {"resolution": MAX_SIDE, "image_size": MAX_SIDE, "channels": 3}.items():
        if not _is_whole(shape.get(name), most) or shape.get("channels") == 2:
            return f": input needs {name!r}, a number from 1 to {most}, got {shape!r:.160}"
    if not _is_whole(manifest["num_threads"], MAX_THREADS):
        return f": 'num_threads' must be 1 to {MAX_THREADS}, got {manifest['num_threads']!r:.80}"
    runtimes = manifest.get("runtimes", {})
    if not isinstance(runtimes, dict) or not all(_is_packed(packed, files) for packed in runtimes.values()):
        return f": 'runtimes' must name files of the bundle, got {runtimes!r:.80}"
    if manifest["default_runtime"] not in MODEL_FILES | runtimes:
        return f": unknown default_runtime {manifest['default_runtime']!r:.80}"
    for name, facts in files.items():
        if not isinstance(facts, dict) or not isinstance(facts.get("sha256"), str) or "size_bytes" not in facts:
            return f": {name!r:.80} needs sha256 and size_bytes, got {facts!r:.80}"
        if Path(name).is_absolute() or ".." in Path(name).parts:
            return f" lists {name!r:.80}, which lies outside the bundle"
    if not _is_number(manifest.get("sample_tolerance", 0.0)):
        return f": 'sample_tolerance' must be a number, got {manifest['sample_tolerance']!r:.80}"
    if "task" in manifest and not _is_task(manifest["task"], len(classes)):
        return f": 'task' must say how outputs are answered, got {manifest['task']!r:.160}"
    return next(filter(None, (_sample_problem(sample, files, len(classes)) for sample in manifest["samples"])), None)


def _is_task(task: Any, num_outputs: int) -> bool:
    answer = task.get("answer") if isinstance(task, dict) else None
    if not isinstance(answer, dict) or not isinstance(answer.get("kind"), str):
        return False
    thresholds = answer.get("thresholds", ())
    if answer["kind"] == "above":
        return isinstance(thresholds, list) and len(thresholds) == num_outputs and all(map(_is_number, thresholds))
    return answer["kind"] != "values" or isinstance(answer.get("unit"), str)


def _is_packed(packed: Any, files: dict[str, Any]) -> bool:
    """Whether a further runtime names its file and what opens it."""
    names = [packed.get("file"), packed.get("opener")] if isinstance(packed, dict) else [None]
    return all(isinstance(name, str) and name in files for name in names)


def _sample_problem(sample: Any, files: dict[str, Any], num_classes: int) -> str | None:
    if not isinstance(sample, dict) or not isinstance(sample.get("file"), str) or sample["file"] not in files:
        return f": a sample must name a file of the bundle, got {sample!r:.80}"
    expected = sample.get("probabilities")
    if not isinstance(expected, list) or len(expected) != num_classes or not all(map(_is_number, expected)):
        return f": {sample['file']} needs {num_classes} probabilities, got {expected!r:.80}"
    return None


def _is_whole(value: Any, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300  # neither NaN nor inf


def open_model(folder: Path, manifest: dict[str, Any], runtime: str, num_threads: int) -> Classify:
    """uint8 (1, H, W, C) to outputs (1, num_outputs): probabilities, unless the manifest's task says otherwise."""
    further = manifest.get("runtimes", {})
    files = MODEL_FILES | {other: packed["file"] for other, packed in further.items()}
    name = files[runtime]
    if name not in manifest["files"]:
        others = [other for other, file in files.items() if file in manifest["files"]]
        raise BundleError(f"this bundle has no {name}; use --runtime {' or '.join(others)}", EXIT_BAD_BUNDLE)
    verified_file(folder, manifest, name)
    for module in ("numpy", "PIL"):  # else a runtime would fail to import them, with a message of its own
        need(module)
    if runtime in further:
        opened = _open_packed(verified_file(folder, manifest, further[runtime]["opener"]), folder / name, num_threads)
    else:
        opened = _OPENERS[runtime](folder / name, num_threads)
    num_classes = len(manifest["classes"])

    def classify(images: Any) -> Any:
        outputs = opened(images)
        if outputs.shape != (len(images), num_classes):
            raise BundleError(
                f"{name} gives {outputs.shape[-1]} numbers, and {MANIFEST} has {num_classes} classes: "
                "copy the folder again",
                EXIT_BAD_BUNDLE,
            )
        return outputs

    return classify


def runtime_names() -> list[str]:
    """Those that this program opens files for, and those whose openers lie beside it."""
    packed = (path.stem for path in (Path(__file__).resolve().parent / OPENERS_FOLDER).glob("*.py"))
    return sorted({*MODEL_FILES, *packed})


def _open_packed(opener: Path, path: Path, num_threads: int) -> Classify:
    """By the ``open_model(path, num_threads)`` of a runtime's own stand-alone program."""
    module: Any = ModuleType("packed_runtime")
    module.__file__ = str(opener)
    try:
        # The very bytes that were checked, and never a __pycache__ that lies there; none is left, either.
        exec(compile(opener.read_bytes(), opener, "exec"), vars(module))
        return module.open_model(path, num_threads)
    except ImportError as error:
        text = f"{error}; run: {Path(sys.executable).name} -m pip install -r requirements.txt"
        raise BundleError(f"{opener.stem} cannot be imported: {text}", EXIT_MISSING_PACKAGE) from error
    except (RuntimeError, OSError, ValueError) as error:
        raise BundleError(f"{opener.stem} cannot load {path}: {error}", EXIT_BAD_MODEL) from error


def verified_file(folder: Path, manifest: dict[str, Any], name: str) -> Path:
    """The file ``name``, when its size and SHA-256 are those in the manifest."""
    path, facts = folder / name, manifest["files"].get(name)
    if facts is None or not path.is_file():
        what = f"{folder / MANIFEST} lists no {name}" if facts is None else f"{path} is missing"
        raise BundleError(f"{what}: copy the whole folder", EXIT_BAD_BUNDLE)
    try:
        size_bytes = path.stat().st_size
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if size_bytes == facts["size_bytes"] else "of other size"
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror}", EXIT_BAD_BUNDLE) from error
    if digest != facts["sha256"]:
        raise BundleError(
            f"{path} is not the file this bundle was made with (sha256 {digest[:13]}, "
            f"{MANIFEST} says {facts['sha256'][:13]}): copy the folder again",
            EXIT_BAD_BUNDLE,
        )
    return path


def _open_onnxruntime(path: Path, num_threads: int) -> Classify:
    onnxruntime = need("onnxruntime")
    session_options = onnxruntime.SessionOptions()
    session_options.intra_op_num_threads = num_threads
    # ONNX Runtime's errors share no base class of their own, so they are collected from where they live.
    state = vars(need("onnxruntime.capi.onnxruntime_pybind11_state")).values()
    errors: tuple[type[Exception], ...] = (RuntimeError, ValueError)
    errors += tuple(kind for kind in state if isinstance(kind, type) and issubclass(kind, Exception))
    try:
        session = onnxruntime.InferenceSession(str(path), session_options, providers=["CPUExecutionProvider"])
    except errors as error:
        raise BundleError(f"ONNX Runtime cannot load {path}: {error}", EXIT_BAD_MODEL) from error
    input_name = session.get_inputs()[0].name

    def run(images: Any) -> Any:
        try:
            return session.run(None, {input_name: images})[0]
        except errors as error:
            raise BundleError(f"ONNX Runtime cannot run {path}: {error}", EXIT_BAD_MODEL) from error

    return run


def _open_tvm(path: Path, num_threads: int) -> Classify:
    os.environ["TVM_NUM_THREADS"] = str(num_threads)
    tvm_ffi, numpy = _need_tvm(), need("numpy")
    try:
        library = tvm_ffi.load_module(str(path))
        machine = library["vm_load_executable"]()
        machine["vm_initialization"](_CPU, 0, _POOLED_ALLOCATOR)
        classify = machine["main"]
        if _is_for_gpu(machine):
            classify = _on_gpu(library, tvm_ffi)
    except (RuntimeError, OSError, AttributeError, ValueError) as error:
        raise BundleError(
            f"TVM cannot load {path}: {error}\n  it was compiled for another kind of device, or needs another "
            "version of apache-tvm (see requirements.txt); --runtime onnxruntime may work",
            EXIT_BAD_MODEL,
        ) from error

    def run(images: Any) -> Any:
        aligned = numpy.empty(images.nbytes + 63, numpy.uint8)
        start = -aligned.ctypes.data % 64  # kernels use aligned loads
        tensor = aligned[start : start + images.nbytes].reshape(images.shape)
        tensor[...] = images
        try:
            return numpy.from_dlpack(classify(tvm_ffi.from_dlpack(tensor))).copy()
        except (RuntimeError, ValueError, TypeError) as error:
            raise BundleError(f"TVM cannot run {path}: {error}", EXIT_BAD_MODEL) from error

    return run


_CPU, _GPU, _POOLED_ALLOCATOR = 1, 2, 2


def _is_for_gpu(machine: Any) -> bool:
    try:
        describe = machine["describe"]
    except AttributeError:  # not compiled by hwautoml
        return False
    return json.loads(str(describe())).get("device") == "cuda"


def _on_gpu(library: Any, tvm_ffi: ModuleType) -> Callable[[Any], Any]:
    """From a tensor of the processor to one, through the first CUDA device. Not run on a GPU so far."""
    machine = library["vm_load_executable"]()
    machine["vm_initialization"](_GPU, 0, _POOLED_ALLOCATOR, _CPU, 0, _POOLED_ALLOCATOR)
    classify, copy_to = machine["main"], tvm_ffi.get_global_func("vm.builtin.to_device")
    return lambda tensor: copy_to(classify(copy_to(tensor, _GPU, 0)), _CPU, 0)


def _need_tvm() -> ModuleType:
    """TVM's runtime without the rest of the package: 0.1 s instead of seconds. No torch, which it would import."""
    package = importlib.util.find_spec("tvm")
    if package is None or not package.submodule_search_locations:
        need("tvm")
        raise BundleError("apache-tvm is damaged: it has no folder of its own", EXIT_MISSING_PACKAGE)
    had_torch = "torch" in sys.modules
    if not had_torch:
        sys.modules["torch"] = None  # type: ignore[assignment]  # makes `import torch` fail
    try:
        tvm_ffi = need("tvm_ffi")
    finally:
        if not had_torch:
            del sys.modules["torch"]
    library = Path(package.submodule_search_locations[0]) / "lib" / "libtvm_runtime.so"
    try:
        ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise BundleError(
            f"TVM's runtime cannot be loaded ({error}); run: "
            f"{Path(sys.executable).name} -m pip install --force-reinstall apache-tvm",
            EXIT_MISSING_PACKAGE,
        ) from error
    with contextlib.suppress(OSError):  # which needs NVIDIA's driver, and only libraries for GPUs need it
        ctypes.CDLL(str(library.with_name("libtvm_runtime_cuda.so")), ctypes.RTLD_GLOBAL)
    return tvm_ffi


_OPENERS: dict[str, Callable[[Path, int], Classify]] = {"onnxruntime": _open_onnxruntime, "tvm": _open_tvm}


def need(module: str) -> ModuleType:
    """Import ``module``, or name the command that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = PIP_NAMES[module.partition(".")[0]]
        raise BundleError(
            f"{package} is needed and cannot be imported ({error}); run: "
            f"{Path(sys.executable).name} -m pip install -r requirements.txt (or: pip install {package})",
            EXIT_MISSING_PACKAGE,
        ) from error


def read_image(path: Path, manifest: dict[str, Any]) -> Any:
    """`decode_image` of a file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error}", EXIT_BAD_IMAGE) from error
    return decode_image(data, str(path), manifest)


def decode_image(data: bytes, name: str, manifest: dict[str, Any], max_pixels: int | None = None) -> Any:
    """uint8 (1, resolution, resolution, channels): upright, square, first of the training images' size.

    ``data`` is an image file's content; ``name`` is for messages; ``max_pixels`` by default what Pillow takes.
    """
    numpy, image_module, operations = need("numpy"), need("PIL.Image"), need("PIL.ImageOps")
    resolution, channels, image_size = (manifest["input"][key] for key in ("resolution", "channels", "image_size"))
    try:
        # Not by its path: Pillow then maps uncompressed TIFFs into memory, and leaves those unturned.
        with image_module.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
            limit = min(max_pixels or image_module.MAX_IMAGE_PIXELS, image_module.MAX_IMAGE_PIXELS)
            if image.width * image.height > limit:  # of which Pillow only warns
                size = f"{image.width} x {image.height} pixels, at most {limit} are taken"
                raise BundleError(f"{name} is far too large: {size}", EXIT_BAD_IMAGE)
            image.draft(None, (2 * image_size, 2 * image_size))
            plain = _eight_bits(operations.exif_transpose(image), manifest["input"])
            plain = plain.convert("L" if channels == 1 else "RGB")
            pixels = _square(plain, image_size, manifest["input"].get("fit", "crop"))
    except (image_module.DecompressionBombError, image_module.DecompressionBombWarning) as error:
        raise BundleError(f"{name} is far too large: {error}", EXIT_BAD_IMAGE) from error
    except image_module.UnidentifiedImageError as error:
        raise BundleError(f"{name} is not an image in a known format", EXIT_BAD_IMAGE) from error
    except DECODING_ERRORS as error:
        raise BundleError(f"cannot read {name}: {error}", EXIT_BAD_IMAGE) from error
    if resolution != image_size:
        pixels = pixels.resize((resolution, resolution), image_module.Resampling.BILINEAR)
    return numpy.asarray(pixels, dtype=numpy.uint8).reshape(1, resolution, resolution, channels)


def _eight_bits(image: Any, rule: dict[str, Any]) -> Any:
    """Deep pictures scaled by the training images' levels, transparent ones composed on their background."""
    numpy, image_module = need("numpy"), need("PIL.Image")
    if image.mode in DEEP_MODES:
        if rule.get("levels") is None:
            raise ValueError(
                f"{image.mode} pixels have more than 8 bits, and the training images had not: their range is not "
                "known; save it as an 8-bit image"
            )
        return image_module.fromarray(_scaled(numpy.asarray(image), *rule["levels"]))
    if not image.has_transparency_data:
        return image
    layered = image.convert("LA" if image.mode in ("1", "L", "LA", "La") else "RGBA")
    *colours, alpha = layered.split()
    opaque = colours[0] if len(colours) == 1 else image_module.merge("RGB", colours)
    level = rule.get("background", 255)
    ground = image_module.new(opaque.mode, opaque.size, level if len(colours) == 1 else (level,) * 3)
    ground.paste(opaque, mask=alpha)
    return ground


def _scaled(values: Any, low: float, high: float) -> Any:
    """(H, W) uint8: linearly from ``low``..``high`` to 0..255, in parts that need little memory; NaN becomes 0."""
    numpy = need("numpy")
    scale = 255.0 / (high - low)
    result = numpy.empty(values.shape, dtype=numpy.uint8)
    rows = max(1, PART_PIXELS // values.shape[1])
    for start in range(0, len(values), rows):
        part = (values[start : start + rows].astype(numpy.float64) - low) * scale
        result[start : start + rows] = numpy.nan_to_num(numpy.clip(numpy.floor(part + 0.5), 0, 255))
    return result


def _square(image: Any, size: int, fit: str) -> Any:
    """``size`` x ``size`` pixels: the centre of ``image``, or all of it, squeezed or between stripes of grey."""
    image_module = need("PIL.Image")
    bilinear = image_module.Resampling.BILINEAR
    width, height = image.size
    if (width, height) == (size, size):
        return image
    if fit == "pad":
        longest = max(width, height)
        target = max(1, round(size * width / longest)), max(1, round(size * height / longest))
        canvas = image_module.new(image.mode, (size, size), PADDING if image.mode == "L" else (PADDING,) * 3)
        whole = image.resize(target, bilinear, reducing_gap=2.0)
        canvas.paste(whole, ((size - target[0]) // 2, (size - target[1]) // 2))
        return canvas
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    box = (0, 0, width, height) if fit == "stretch" else (left, top, left + side, top + side)
    return image.resize((size, size), bilinear, box=box, reducing_gap=2.0)


def classify_files(options: argparse.Namespace, manifest: dict[str, Any], runtime: str, classify: Classify) -> int:
    """Every readable image is classified, also when others are not."""
    results: list[dict[str, Any]] = []
    failed = False
    for path in options.images:
        try:
            outputs = classify(read_image(path, manifest))[0]
        except BundleError as error:
            if error.exit_code != EXIT_BAD_IMAGE:
                raise
            print(f"run.py: {shown(str(error))}", file=sys.stderr)
            failed = True
            continue
        chosen = answers(outputs, manifest, options.top)
        results.append({"image": str(path), "runtime": runtime, "predictions": chosen})
    if options.json:
        print(json.dumps(results, indent=2))
    else:
        for result in results:
            print(shown(f"{result['image']}: {', '.join(map(as_text, result['predictions'])) or 'none'}"))
    return EXIT_BAD_IMAGE if failed else 0


def answer_kind(manifest: dict[str, Any]) -> str:
    """What the model's task says of its outputs; bundles without a task rank classes."""
    kind = manifest["task"]["answer"]["kind"] if "task" in manifest else "ranking"
    if kind not in ("ranking", "above", "values"):
        raise BundleError(f"manifest.json asks for answers of a kind {kind!r} that is not known here", EXIT_BAD_BUNDLE)
    return str(kind)


def answers(outputs: Any, manifest: dict[str, Any], top: int) -> list[dict[str, Any]]:
    """Of one image: the ``top`` classes, or those above their thresholds, or every value with its unit."""
    names, kind = manifest["classes"], answer_kind(manifest)
    if kind == "values":
        unit = manifest["task"]["answer"]["unit"]
        return [{"output": name, "value": float(outputs[i]), "unit": unit} for i, name in enumerate(names)]
    best = sorted(range(len(outputs)), key=lambda i: -outputs[i])
    if kind == "above":
        thresholds = manifest["task"]["answer"]["thresholds"]
        best = [i for i in best if outputs[i] >= thresholds[i]]
    else:
        best = best[:top]
    return [{"class": names[i], "probability": float(outputs[i])} for i in best]


def as_text(answer: dict[str, Any]) -> str:
    if "value" in answer:
        return f"{answer['output']} {answer['value']:.4g} {answer['unit']}".rstrip()
    return f"{answer['class']} {answer['probability']:.1%}"


def check_samples(folder: Path, manifest: dict[str, Any], runtime: str, classify: Classify) -> int:
    samples = manifest["samples"]
    if not samples:
        raise BundleError("this bundle holds no samples to check with", EXIT_BAD_BUNDLE)
    are_values = answer_kind(manifest) == "values"
    one, all_of_them = ("an output", "outputs") if are_values else ("a probability", "probabilities")
    tolerance = manifest.get("sample_tolerance", 0.0)
    largest = 0.0
    for sample in samples:
        path = verified_file(folder, manifest, sample["file"])
        outputs = classify(read_image(path, manifest))[0]
        differences = [abs(float(p) - e) for p, e in zip(outputs, sample["probabilities"], strict=True)]
        if not all(difference <= tolerance for difference in differences):
            print(f"run.py: {path}: {one} differs by {max(differences):.3g}, more than {tolerance:g}")
            return EXIT_CHECK_FAILED
        largest = max(largest, *differences)
    print(f"{len(samples)} samples as expected with {runtime}: {all_of_them} differ by at most {largest:.2g}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
