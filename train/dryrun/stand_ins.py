"""Stand-ins for the CANN libraries, with which MindSpore's own Ascend plugin loads where there is no CANN.

They compute nothing: MindSpore compiles for Ascend, chooses and makes a kernel for every operator and launches it
(``MS_SIMULATION_LEVEL=3``), and the stand-ins write the name of each launch into the file ``STAND_INS_RECORD``.

Which functions are needed is read from the package: undefined symbols of its Ascend libraries that neither it nor the
C++ runtime defines; names in their text that look like CANN's C functions (MindSpore looks them up with dlsym); and for
every ``aclnnX`` in the text the pair ``aclnnX``, ``aclnnXGetWorkspaceSize``. Most return 0, CANN's "success"; what the
others do is in ``stand_ins.cc``. One library holds them all, and the names under which MindSpore looks refer to it.

Made for MindSpore 2.10 on x86-64; two things in it are guesses that hold there: the sizes of ``ge::`` objects, and how
``aclnn…GetWorkspaceSize`` finds the place for its executor. Where they fail, the command says that nothing returned.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from train.runtime.errors import UserError

SOC = "Ascend910B2"
TOOLS = ("g++", "nm", "readelf")
CODE = Path(__file__).with_name("stand_ins.cc")

# Relative to the package's lib/: what must load. Its needs are what is stood in for.
PLUGIN = (
    "plugin/libmindspore_ascend.so.2",
    "plugin/libmindspore_ops_ascend.so",
    "plugin/ascend/libmindspore_ascend_res_manager.so",
    "plugin/ascend/libmindspore_graph_ir.so",
    "plugin/ascend/libd_collective.so",
    "plugin/ascend/libhccl_plugin.so",
    "plugin/ascend/ms_kernels_symmetric_memory/shmem/shmem/lib/libshmem.so",
)
# Folders of the package whose libraries are real, in the order of LD_LIBRARY_PATH.
FOLDERS = ("plugin/ascend", "plugin", "plugin/ascend/ms_kernels_symmetric_memory/shmem/shmem/lib", ".")
NOT_LOADED = ("libmindspore_cpu_kernels.so", "libdvpp_utils.so")  # for another processor
RUNTIME = (
    *("libc.so.6", "libm.so.6", "libstdc++.so.6", "libgcc_s.so.1", "libgomp.so.1", "libpthread.so.0", "libdl.so.2"),
    *("ld-linux-x86-64.so.2", "librt.so.1"),
)
# Opened by MindSpore at run time, and so not among what its libraries name as needed.
OPENED = (
    *("libacl_op_compiler.so", "libacl_tdt_channel.so", "libacl_tdt_queue.so", "libascend_hal.so", "libnnopbase.so"),
    *("libopapi.so", "libplatform.so", "libprofapi.so", "libruntime.so"),
)
LOOKED_UP = re.compile(
    r"^(?:acl(?:rt|op|mdl|prof|tdt)?|Hccl|Hcom|hal|rt|Msprof)[A-Z][A-Za-z0-9]*$"
    # what libopapi.so has beside aclnn…
    r"|^[A-Za-z]*(?:PTA|HugeMem|ExecutorRepeatable)[A-Za-z]*$"
)
OF_WORKSPACE = "GetWorkspaceSize"
ACLNN = re.compile(r"^aclnn[A-Z][A-Za-z0-9]*$")

# Functions by their (mangled) names, and what they do: the suffix of a stub_… function in stand_ins.cc. First wins.
BEHAVIOURS = (
    (rf"aclnn(?!.*{OF_WORKSPACE}$)", "launch"),
    (r"rtKernelLaunch|Hccl(?:All|Broadcast|Reduce|Send|Recv|Scatter|Batch|Barrier)", "launch"),
    (r"aclopCompileAndExecute(V2)?$", "launch_operator"),
    (r"aclrt(Malloc(Align32|Host)?|ReserveMemAddress)$", "allocate"),
    (r"aclrtMemcpy(Async)?$", "copy"),
    # Objects of ge:: that MindSpore makes and destroys itself, one shared_ptr (2 words) each, set to null here.
    (r"_ZN2ge(6Tensor|10TensorDesc|5Shape|12AscendString|10TensorType|7Promote)C[12]E", "words2"),
    (r"_ZN2ge8OperatorC[12]E|_ZN2ge15OperatorFactory14CreateOperatorE", "operator"),
    # These return an object by value: so many words, or a text.
    (r"_ZNK2ge8Operator(7GetName|9GetOpType)Ev$", "string"),
    (r"_ZNK2ge(8Operator13GetOutputDesc|6Tensor13GetTensorDesc|10TensorDesc(14GetOrigin|8Get)Shape)E", "words2"),
    (r"_ZNK2ge5Shape7GetDimsEv$", "words3"),
    # These return their own object.
    (r"_ZN2ge8Operator(?:8SetInput|7SetAttr|15AddControlInput)E", "self"),
    # "Not found" is the honest answer to a question for an attribute, and leaves nothing to read.
    (r"_ZNK2ge8Operator7GetAttrE", "failure"),
    (rf"aclnn\w+{OF_WORKSPACE}$", "workspace"),
    # C functions that return a pointer to something new, and those that write it to their first argument.
    (r"acl(?:op|mdl|prof|tdt)?Create[A-Z]|aclrtAllocatorCreateDesc$", "handle"),
    (r"aclrtCreate|aclrtGetCurrentContext$|aclrtMallocPhysical$", "write_handle"),
    (r"", "zero"),
)


def mindspore_package() -> Path:
    """Return the folder of the installed MindSpore, which is not imported.

    Raises:
        UserError: where it or the machine is not what the stand-ins need.
    """
    machine = f"{platform.system()} on {platform.machine()}"
    if machine != "Linux on x86_64":
        raise UserError(f"the dry run works on Linux on x86_64 only, this is {machine}: run it in such a container")
    spec = find_spec("mindspore")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("the dry run needs MindSpore: pip install -r launch/requirements.txt")
    package = Path(spec.submodule_search_locations[0])
    if not all((package / "lib" / name).exists() for name in PLUGIN):
        raise UserError(f"{package}: this MindSpore is not the wheel of 2.10 with its Ascend plugin; install that one")
    return package


def ready(package: Path) -> Path:
    """Return the folder with the stand-ins for ``package``; build them in the user's cache if they are not there.

    Two processes may do so at once: each builds in a folder of its own, and the first to finish gives it the name.

    Raises:
        UserError: when the tools for it are missing, the cache cannot be written to, or the compiler fails.
    """
    version = re.search(r"__version__ *= *['\"](.*)['\"]", (package / "version.py").read_text())
    digest = hashlib.sha256(Path(__file__).read_bytes() + CODE.read_bytes()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").resolve() / "mindspore-resnet-dp"
    place = cache / f"{version[1] if version else 'unknown'}-{digest}"
    # MindSpore takes CANN's place from its libraries' path, up to the last "cann" in it.
    cann = place / "cann"
    if cann.exists():
        return cann
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        raise UserError(
            f"the dry run builds stand-ins for CANN and needs {', '.join(TOOLS)}; missing: {', '.join(missing)}: "
            "install your system's compiler (Debian, Ubuntu: apt-get install g++)"
        )
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix="build-") as folder:
            print("building the stand-ins for CANN, once for this MindSpore ...", file=sys.stderr, flush=True)
            build(package, Path(folder) / "cann")
            place.mkdir(exist_ok=True)
            try:
                os.rename(Path(folder) / "cann", cann)
            except OSError:
                if not cann.exists():
                    raise
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip() or str(error)).splitlines()[0]
        raise UserError(f"the stand-ins for CANN cannot be built: {reason}") from None
    except OSError as error:
        raise UserError(f"{error.filename or cache}: {error.strerror}; set XDG_CACHE_HOME to another folder") from None
    return cann


def environment(package: Path, cann: Path) -> dict[str, str]:
    """Return the variables with which a process loads the stand-ins."""
    folders = [cann / "lib64", *(package / "lib" / name for name in FOLDERS)]
    return {
        "LD_LIBRARY_PATH": ":".join(map(str, folders)),
        "ASCEND_HOME_PATH": str(cann),
    }


def build(package: Path, cann: Path) -> None:
    """Write the stand-ins for ``package`` to the folder ``cann``."""
    lib, hccl = cann / "lib64", cann / "python/hccl"
    lib.mkdir(parents=True)
    hccl.mkdir(parents=True)
    # The package that mindspore.communication.init asks for.
    (hccl / "__init__.py").write_text("")
    (hccl / "sys_version.py").write_text('__sys_version__ = "9.1.0"\n')
    code = CODE.read_text()
    names, libraries = needed_functions(package)
    written = set(re.findall(r"^C [^(]*?(\w+)\(", code, re.M)) | {"_ZN2ge13StatusFactory8InstanceEv"}
    (lib / "jumps.S").write_text(jumps(names - written))
    # The old string ABI is the one in which MindSpore calls CANN; -Bsymbolic binds the jumps inside the library.
    how = ["-D_GLIBCXX_USE_CXX11_ABI=0", f'-DSOC="{SOC}"', "-Wl,-Bsymbolic", "-Wl,-soname,libstandin.so"]
    compile_library(lib, "libstandin.so", [*how, CODE, "jumps.S"])
    for name in sorted(libraries):
        linked = ["-Wl,--no-as-needed", "-L.", "-lstandin", "-Wl,-rpath,$ORIGIN", "-nostdlib", f"-Wl,-soname,{name}"]
        compile_library(lib, name, linked)


def compile_library(folder: Path, name: str, arguments: Iterable[str | Path]) -> None:
    output("g++", "-shared", "-fPIC", "-O1", "-o", name, *arguments, cwd=folder)


def jumps(names: Iterable[str]) -> str:
    """Return assembly: each function jumps to the one that does its work, arguments and return address in place."""
    lines = [".text\n"]
    for name in sorted(names):
        kind = next(kind for pattern, kind in BEHAVIOURS if re.match(pattern, name))
        first = f".globl {name}\n.type {name},@function\n{name}: "
        if kind in ("launch", "workspace"):  # with its name as the argument, or beside its own arguments
            text = f'.section .rodata.str1.1,"aMS",@progbits,1\n1: .string "{name.removesuffix(OF_WORKSPACE)}"\n.text\n'
            first = f"{text}{first}leaq 1b(%rip), %{'rdi' if kind == 'launch' else 'r11'}\n"
        lines.append(f"{first}jmp stub_{kind}\n")
    return "".join(lines) + '.section .note.GNU-stack,"",@progbits\n'


def needed_functions(package: Path) -> tuple[set[str], set[str]]:
    """Return the functions that must be stood in for, and the libraries that are missing."""
    roots = [package / "lib" / name for name in PLUGIN]
    present = [path for name in FOLDERS for path in sorted((package / "lib" / name).glob("*.so*"))]
    found = [Path(output("g++", f"-print-file-name={name}").strip()) for name in RUNTIME]
    runtime = [path for path in found if path.is_absolute() and path.exists()]
    defined: set[str] = set()
    for library in [*present, *runtime]:
        if library.name not in NOT_LOADED:
            defined |= symbols(library, "defined")
    there = {path.name for path in [*present, *runtime]} | set(RUNTIME)
    linked = set().union(*(symbols(root, "undefined") for root in roots)) - defined
    linked = {name for name in linked if not re.match("_?Py", name)}
    words = set().union(*(texts(root) for root in roots))
    looked_up = {word for word in words if LOOKED_UP.match(word)}
    # A linker stores a text that ends another only once: "Init…" is found only as the end of "UnInit…".
    looked_up |= {word[2:] for word in looked_up if word.startswith("UnInit")}
    kernels = {word for word in words if ACLNN.match(word)}
    kernels |= {f"{name}{OF_WORKSPACE}" for name in kernels if not name.endswith(OF_WORKSPACE)}
    missing = set().union(*(needed_libraries(root) for root in roots)) - there
    return linked | (looked_up - defined) | kernels, missing | set(OPENED)


def symbols(library: Path, kind: str) -> set[str]:
    """Return the library's dynamic symbols, ``kind`` "defined" or "undefined" (without weak ones), no versions."""
    names = set()
    for line in output("nm", "-D", f"--{kind}-only", library).splitlines():
        *_, letter, name = line.split()
        if kind == "defined" or letter == "U":
            names.add(name.split("@")[0])
    return names


def needed_libraries(library: Path) -> set[str]:
    return set(re.findall(r"\(NEEDED\).*\[(.*)\]", output("readelf", "-d", library)))


def texts(library: Path) -> set[str]:
    """Return all printable zero-terminated strings of 4 or more characters."""
    return {match.decode() for match in re.findall(rb"[\x20-\x7e]{4,}(?=\x00)", library.read_bytes())}


def output(*command: str | Path, cwd: Path | None = None) -> str:
    environment = os.environ | {"LC_ALL": "C"}  # readelf's words are translated otherwise
    words = [str(part) for part in command]
    return subprocess.run(words, check=True, capture_output=True, text=True, cwd=cwd, env=environment).stdout
