#!/usr/bin/env bash
# Builds the image without a container engine, runs it as a careful site would (its own user, read-only root file
# system, no network), and says what was found. Needs root on Debian 12, and about 15 GB of disk while it runs.
#   ACCELERATOR     cpu or cuda (default cpu)
#   MAX_IMAGE_MB    fail if the image's files are larger, in MB of 10^6 bytes (default 1600; not checked for cuda)
#   IMAGE_TEST_DIR  folder for the work; the base image made there is used again (default: a new one, removed at the end)
# shellcheck disable=SC2016  # what is quoted runs inside the image, and is expanded there
set -euo pipefail
cd "$(dirname "$0")/.."

ACCELERATOR=${ACCELERATOR:-cpu}
MAX_IMAGE_MB=${MAX_IMAGE_MB:-1600}
IMAGE=localhost/steadymr:$ACCELERATOR
BASE=docker.io/library/debian:bookworm-slim
DEBIAN_MIRROR=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
VERSION=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
REVISION=$(git rev-parse HEAD 2>/dev/null || echo unknown)

if [ -n "${IMAGE_TEST_DIR:-}" ]; then work=$(mkdir -p "$IMAGE_TEST_DIR" && cd "$IMAGE_TEST_DIR" && pwd)
else work=$(mktemp -d /var/tmp/steadymr-image-XXXXXX); fi
containers() { buildah --root "$work/storage" --runroot "$work/run" --storage-driver vfs "$@"; }
clean_up() {
  containers rm --all >/dev/null 2>&1 || true
  rm -rf "$work/storage" "$work/run" "$work/pip" "$work/data"
  if [ -z "${IMAGE_TEST_DIR:-}" ]; then rm -rf "$work"; fi
}

install_tools() {
  local tool missing=()
  for tool in buildah debootstrap; do command -v "$tool" >/dev/null || missing+=("$tool"); done
  if [ ${#missing[@]} = 0 ]; then return; fi
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" >/dev/null
}

# What debian:bookworm-slim is: the minimal system, without manuals and translations.
make_base() {
  if [ ! -f "$work/base.tar" ]; then
    debootstrap --variant=minbase bookworm "$work/base" "$DEBIAN_MIRROR" >"$work/debootstrap.log" 2>&1 ||
      { tail -5 "$work/debootstrap.log" >&2; return 1; }
    rm -rf "$work"/base/var/cache/apt/* "$work"/base/var/lib/apt/lists/* "$work"/base/var/log/* \
      "$work"/base/usr/share/{doc,man,info,locale}/*
    printf 'path-exclude /usr/share/%s/*\n' doc man info locale >"$work/base/etc/dpkg/dpkg.cfg.d/docker"
    echo "deb $DEBIAN_MIRROR bookworm main" >"$work/base/etc/apt/sources.list"
    tar -C "$work/base" -cf "$work/base.tar.partial" . && mv "$work/base.tar.partial" "$work/base.tar"
    rm -rf "$work/base"
  fi
  printf 'FROM scratch\nADD base.tar /\nCMD ["bash"]\n' >"$work/Dockerfile.base"
  containers bud --quiet --isolation chroot --format docker -t "$BASE" -f "$work/Dockerfile.base" "$work" >/dev/null
}

# This machine's way to packages (index, certificates, folders of wheels) is lent to the build's pip, and stays here.
lend_pip_settings() {
  mkdir -p "$work/pip"
  "$(ls .venv/bin/pip 2>/dev/null || command -v pip3)" config list | python3 -c '
import ast, pathlib, re, sys
folder = pathlib.Path(sys.argv[1])
settings = {}
for line in sorted(sys.stdin, key=lambda line: line.startswith(":env:")):  # the environment has the last word
    key, value = line.split("=", 1)
    settings[key.rsplit(".", 1)[1]] = ast.literal_eval(value)
certificate = settings.pop("cert", None)
if certificate:
    (folder / "ca.crt").write_bytes(pathlib.Path(certificate).read_bytes())
    settings["cert"] = "/run/pip/ca.crt"
index = settings.pop("index-url", None)
if index:
    print(f"--build-arg=PIP_INDEX_URL={index}")
text = "".join(f"{key} = " + "\n    ".join(value.split()) + "\n" for key, value in settings.items())
(folder / "pip.conf").write_text("[global]\n" + text)
print(f"--volume={folder}:/run/pip:ro")
print(f"--volume={folder}/pip.conf:/etc/pip.conf:ro")
for place in re.findall(r"(?:file://)?(/[^\s]+)", text):
    path = pathlib.Path(place)
    path = path.parent if path.name == "simple" else path  # an index keeps its files beside it
    if path.is_dir() and path != folder and not place.startswith("/run/pip"):
        print(f"--volume={path}:{path}:ro")
' "$work/pip"
}

build() {
  local lent
  lent=$(lend_pip_settings)
  mapfile -t lent <<<"$lent"
  containers bud --isolation chroot --format docker -t "$IMAGE" -f docker/Dockerfile "${lent[@]}" \
    --build-arg "ACCELERATOR=$ACCELERATOR" --build-arg "VERSION=$VERSION" --build-arg "REVISION=$REVISION" . \
    >"$work/build.log" 2>&1 || { tail -30 "$work/build.log" >&2; return 1; }
}

# setting KEY: one line for each item of the image's configuration.
setting() {
  containers inspect --type image "$IMAGE" | python3 -c '
import json, sys
value = json.load(sys.stdin)["Docker"]["config"][sys.argv[1]]
value = value["Test"][1:] if sys.argv[1] == "Healthcheck" else value
value = [f"{k}={v}" for k, v in value.items()] if isinstance(value, dict) else value
print(*([value] if isinstance(value, str) else value), sep="\n")' "$1"
}

# inside COMMAND...: run it with the image's user, environment and folder; only /tmp and /data can be written.
inside() {
  unshare --mount --pid --fork --net bash -euo pipefail -c '
    root=$1 data=$2 user=$3; shift 3
    mount --bind "$root" "$root"
    mount -o remount,bind,ro "$root"
    mount -t proc proc "$root/proc"
    mount --rbind /dev "$root/dev"
    mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
    mount --bind "$data" "$root/data"
    exec chroot --userspec "$user" "$root" /usr/bin/env -i --chdir=/data "$@"
  ' inside "$root" "$work/data" "$user" "${environment[@]}" "$@"
}

failures=0
expect() {  # expect SENTENCE COMMAND...
  local sentence=$1 start=$SECONDS; shift
  if "$@" >"$work/output" 2>&1; then echo "ok    $sentence ($((SECONDS - start)) s)"
  else echo "FAIL  $sentence ($((SECONDS - start)) s)"; sed 's/^/      /' "$work/output" | tail -40; failures=$((failures + 1)); fi
}
not() { ! "$@"; }

[ "$(id -u)" = 0 ] || { echo "image-test needs root: buildah's chroot isolation and debootstrap do" >&2; exit 1; }
trap clean_up EXIT
install_tools
echo "making the base image";          start=$SECONDS; make_base; echo "      $((SECONDS - start)) s"
echo "building $IMAGE";                start=$SECONDS; build;     echo "      $((SECONDS - start)) s"

container=$(containers from "$IMAGE")
root=$(containers mount "$container")
user=$(setting User)
mapfile -t environment < <(setting Env)
mapfile -t entrypoint < <(setting Entrypoint)
mapfile -t health < <(setting Healthcheck)
install -d -o "${user%:*}" -g "${user#*:}" "$work/data"

SIMULATE='
from pathlib import Path
from steadymr.simulate.scan import simulate_scan
simulate_scan(Path("/data/scan.h5"), seed=1, n_coils=4, matrix=(64, 64), pixel_mm=3.6, n_calibration=16)'
READ_BACK='
import pydicom, pathlib
files = sorted(pathlib.Path("/data/out/dicom").rglob("*.dcm"))
assert files, "no DICOM was written"
for file in files: print(pydicom.dcmread(file).SeriesDescription)'
NO_BUILD_TOOLS='for tool in cc gcc g++ make pip pip3 hatchling cyclonedx-py; do ! command -v "$tool" || exit 1; done
test -z "$(find /opt/steadymr -name "ptxas*" -o -name nvcc)"
! python3 -c "import pip" && test ! -e /root/.cache && test -z "$(ls -A /var/lib/apt/lists /var/cache/apt | grep -v :)"'

expect "runs as a user who is not root" inside sh -c 'test "$(id -u)" -ge 1000'
expect "its root file system cannot be written" not inside touch /opt/steadymr/x
expect "there is no compiler, pip or cache in it" inside sh -c "$NO_BUILD_TOOLS"
expect "nothing of this machine's pip settings stayed in it" \
  inside sh -c 'test ! -s /etc/pip.conf && test -z "$(ls -A /run/pip 2>/dev/null)"'
expect "its bill of materials names torch and steadymr" \
  inside sh -c 'grep -q "\"torch\"" /opt/steadymr/sbom.cdx.json && grep -q "\"steadymr\"" /opt/steadymr/sbom.cdx.json'
expect "its version label is that of the package" \
  inside python -c "import steadymr; assert steadymr.__version__ == '$VERSION', steadymr.__version__"
expect "every module can be imported" inside python -c '
import importlib, pkgutil, steadymr
for module in pkgutil.walk_packages(steadymr.__path__, "steadymr."):
    if not module.name.endswith("__main__"): importlib.import_module(module.name)'
expect "its entry point answers" inside "${entrypoint[@]}" --help
expect "its health check answers: ${health[*]}" inside "${health[@]}"
expect "it says that this machine has no GPU for it, and that it takes the CPU" \
  inside sh -c '"$@" | grep "cuda.*none.*auto means cpu"' sh "${health[@]}"
expect "a scan can be simulated in it" inside python -c "$SIMULATE"
expect "steadymr replay of that scan works" \
  inside "${entrypoint[@]}" replay /data/scan.h5 --out /data/out --method classical --samples 0
expect "the replay left DICOM, report and summary" \
  inside sh -c "test -s out/report.html && test -s out/summary.json && python -c '${READ_BACK//\'/\"}'"
sed 's/^/      /' "$work/output"

megabytes() { du --summarize --apparent-size --block-size=1000000 "$@"; }
size=$(megabytes "$root" | cut -f1)
echo "      size of $IMAGE: $size MB of files; its largest packages, in MB:"
megabytes "$root"/opt/steadymr/lib/python3.*/site-packages/* | sort -rn |
  awk 'NR <= 12 { n = split($2, path, "/"); printf "      %6d %s\n", $1, path[n] }'
if [ "$ACCELERATOR" = cpu ]; then expect "it is smaller than $MAX_IMAGE_MB MB" test "$size" -lt "$MAX_IMAGE_MB"; fi

if [ "$failures" != 0 ]; then echo "$failures checks failed" >&2; exit 1; fi
echo "all checks passed"
