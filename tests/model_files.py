"""Model files with other contents."""

import json

from safetensors.torch import load_file, save_file

from deepmd_lite.model import read_header


def rewrite(path, change, target=None):
    """`change(header, arrays)` what a file holds; without a checksum, as older files are."""
    header, arrays = read_header(path), load_file(path)
    del header["arrays"]
    change(header, arrays)
    target = target or path
    save_file(arrays, target, {"deepmd_lite": json.dumps(header)})
    return target
