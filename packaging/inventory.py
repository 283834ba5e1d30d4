#!/usr/bin/env python3
"""What is linked into a release: a bill of materials (CycloneDX JSON) and the licences that come with it.

    inventory.py TARGET BOM LICENCES

Same source, same bytes: no clock, no random number, no path of this machine. The crates are those cargo links for TARGET;
checksums come from Cargo.lock, texts from the crates' own files. Own code, as cargo-cyclonedx writes the checkout's path
into every reference, and cargo-about knows nothing of the C library, which is linked in as well.
"""

import collections
import datetime
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tomllib
import uuid

TEXT = re.compile(r"^(un)?licen[cs]e|^copying|^copyright|^notice", re.IGNORECASE)
# Folders of a crate that are not linked, and zstd's other licence: it is taken under its BSD one.
SKIPPED = {"tests", "test", "benches", "examples", "fuzz", "target"}
NOT_OURS = {"zstd/COPYING"}
COMMON = pathlib.Path("/usr/share/common-licenses")


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"inventory: {' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def crates(target, edges):
    """Names and versions that cargo would build for these kinds of edges."""
    lines = run("cargo", "tree", "--locked", "--target", target, "-e", edges, "--prefix", "none", "--format", "{p}").splitlines()
    return {(name, version.removeprefix("v")) for name, version, *_ in (line.split() for line in lines if line)}


def licence_texts(folder):
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name.lower() not in SKIPPED and not name.startswith("."))
        for name in sorted(files):
            path = pathlib.Path(place, name)
            inner = path.relative_to(folder).as_posix()
            if TEXT.match(name) and path.suffix not in {".rs", ".py", ".c", ".h"} and inner not in NOT_OURS:
                text = path.read_text(encoding="utf-8", errors="replace").replace("\r\n", "\n").strip("\n")
                if text:
                    found.append(text)
    return found


def runtime(target):
    """What is linked in besides crates."""
    rust = dict(line.split(": ", 1) for line in run(os.environ.get("RUSTC", "rustc"), "-vV").splitlines() if ": " in line)
    gcc = os.environ.get("CC_" + target.replace("-", "_"), "cc")
    glibc = re.search(r"__GLIBC__ (\d+)[\s\S]*__GLIBC_MINOR__ (\d+)", run("sh", "-c", f"echo '#include <features.h>' | {gcc} -E -dM -"))
    return [
        ("rust-std", rust["release"], "MIT OR Apache-2.0", "The Rust standard library", "https://www.rust-lang.org/"),
        ("glibc", ".".join(glibc.groups()), "LGPL-2.1-or-later", "The GNU C Library", "https://www.gnu.org/software/libc/"),
        ("libgcc", run(gcc, "-dumpfullversion").strip(), "GPL-3.0-or-later WITH GCC-exception-3.1", "GCC's run-time library",
         "https://gcc.gnu.org/"),
    ]


class Inventory:
    def __init__(self, target):
        self.target = target
        told = json.loads(run("cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", target))
        packages = {(p["name"], p["version"]): p for p in told["packages"]}
        self.linked = crates(target, "normal,no-proc-macro")
        self.building = crates(target, "normal,build") - self.linked
        self.packages = {key: packages[key] for key in sorted(self.linked | self.building)}
        self.keys = {p["id"]: key for key, p in packages.items()}
        self.nodes = {self.keys[node["id"]]: node for node in told["resolve"]["nodes"]}
        self.own = self.keys[told["resolve"]["root"]]
        lock = tomllib.loads(pathlib.Path(told["workspace_root"], "Cargo.lock").read_text())
        self.sums = {(p["name"], p["version"]): p.get("checksum") for p in lock["package"]}
        self.runtime = runtime(target)

    def ref(self, key):
        name, version = key
        local = self.packages[key]["source"] is None if key in self.packages else False
        return f"{name}@{version}" if local else f"pkg:cargo/{name}@{version}"

    def component(self, key):
        name, version = key
        package = self.packages[key]
        ref = self.ref(key)
        part = {"type": "library", "bom-ref": ref, "name": name, "version": version}
        if package["description"]:
            part["description"] = " ".join(package["description"].split())
        part["scope"] = "required" if key in self.linked else "excluded"
        if self.sums.get(key):
            part["hashes"] = [{"alg": "SHA-256", "content": self.sums[key]}]
        if package["license"]:
            part["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
        if ref.startswith("pkg:"):
            part["purl"] = ref
        if package["repository"]:
            part["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
        return part

    def bom(self):
        name, version = self.own
        root = {
            "type": "application", "bom-ref": self.ref(self.own), "name": name, "version": version,
            "description": self.packages[self.own]["description"],
            "licenses": [{"expression": self.packages[self.own]["license"]}],
            "properties": [
                {"name": "pbmbox:commit", "value": os.environ.get("PBMBOX_GIT_COMMIT", "")},
                {"name": "pbmbox:target", "value": self.target},
            ],
        }
        parts = [self.component(key) for key in self.packages if key != self.own]
        for name, version, licence, text, url in self.runtime:
            parts.append({
                "type": "library", "bom-ref": f"{name}@{version}", "name": name, "version": version, "description": text,
                "scope": "required", "licenses": [{"expression": licence}], "externalReferences": [{"type": "website", "url": url}],
            })
        graph = []
        for key in self.packages:
            needs = {self.keys[d["pkg"]] for d in self.nodes[key]["deps"] if any(k["kind"] in (None, "build") for k in d["dep_kinds"])}
            refs = sorted(self.ref(need) for need in needs if need in self.packages)
            if key == self.own:
                refs += [f"{name}@{version}" for name, version, *_ in self.runtime]
            graph.append({"ref": self.ref(key), "dependsOn": refs})
        epoch = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
        at = datetime.datetime.fromtimestamp(epoch, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        bom = {
            "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
            "metadata": {"timestamp": at, "component": root},
            "components": parts, "dependencies": graph,
        }
        digest = hashlib.sha256(json.dumps(bom, sort_keys=True).encode()).hexdigest()
        return {"serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, digest)}", **bom}

    def licences(self):
        by_text, silent, spelled = collections.defaultdict(list), [], {}
        for key in self.packages:
            package = self.packages[key]
            if key not in self.linked or package["source"] is None:
                continue
            label = f"{key[0]} {key[1]} ({package['license'] or 'see below'})"
            texts = licence_texts(pathlib.Path(package["manifest_path"]).parent)
            # The same words, however they are wrapped, are printed once.
            for text in dict.fromkeys(spelled.setdefault(" ".join(text.split()), text) for text in texts):
                by_text[text].append(label)
            if not texts:
                silent.append(f"{label}, by {', '.join(package['authors']) or 'the authors named at ' + str(package['repository'])}")
        rule = "=" * 100
        name, version = self.own
        yield f"{name} {version} is licensed under the Apache License 2.0 (file LICENSE). Linked into its executable are the works\nbelow, under the terms that follow them."
        yield "\n".join(["Parts of the run-time:"] + [f"  {text}, {version} ({licence}), {url}" for _, version, licence, text, url in self.runtime])
        yield (
            "The GNU C Library is linked statically. Its licence lets you replace it: the whole source of this program is public,\n"
            "and packaging/build.sh links it again with the library that your system has."
        )
        if silent:
            yield "\n".join(["Without a text of their own (the terms are those of the same name below):"] + [f"  {line}" for line in silent])
        for text, labels in sorted(by_text.items(), key=lambda item: item[1]):
            yield "\n".join([rule] + labels + [rule, "", text])
        for name in ["LGPL-2.1", "GPL-3"]:
            if not (COMMON / name).is_file():
                sys.exit(f"inventory: the text of {name} is not in {COMMON}; install Debian's base-files or put it there")
            users = [text for _, _, licence, text, _ in self.runtime if licence.startswith(name)]
            yield "\n".join([rule] + users + [rule, "", (COMMON / name).read_text().strip("\n")])


def main():
    if len(sys.argv) != 4:
        sys.exit("usage: inventory.py TARGET BOM LICENCES")
    target, bom, licences = sys.argv[1:]
    inventory = Inventory(target)
    pathlib.Path(bom).write_text(json.dumps(inventory.bom(), indent=1, ensure_ascii=False) + "\n")
    pathlib.Path(licences).write_text("\n\n".join(inventory.licences()) + "\n")


main()
