# Runs in the environment's Python, without xfdev: standard library, torch, and the project itself.
"""Import a project in a fresh process and report which operators that registers.

    python check_import.py '["package", "package.ops"]'

Prints one JSON object: modules that import, the error of the first that does not, the operators that were not there
before, and the file that was loaded for each module.
"""

import json
import sys
import traceback


def operators():
    try:
        import torch

        return set(torch._C._dispatch_get_all_op_names())
    except Exception:
        return set()


def main():
    before = operators()
    report = {"imported": {}, "error": None, "traceback": None}
    for name in json.loads(sys.argv[1]):
        try:
            __import__(name)
        except BaseException as error:
            report["error"] = f"import {name}: {type(error).__name__}: {error}"
            report["traceback"] = traceback.format_exc()
            break
        report["imported"][name] = getattr(sys.modules[name], "__file__", None)
    report["operators"] = sorted(operators() - before)
    with open("/proc/self/maps") as maps:
        loaded = {line.split(None, 5)[5].strip() for line in maps if ".so" in line and len(line.split(None, 5)) > 5}
    report["libraries"] = sorted(loaded)
    print("\n" + json.dumps(report))


main()
