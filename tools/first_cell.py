# On Colab: install dmtutor and nothing else. Where it is installed already, this cell does nothing.
import importlib.util, os, subprocess, sys

found = importlib.util.find_spec("dmtutor")
if found is None or found.origin is None:  # a folder that is only called dmtutor does not count
    source = os.environ.get("DMTUTOR_SOURCE", "git+https://github.com/your_account/dmtutor")
    if "/your_account/" in source:
        sys.exit("Where is dmtutor? Write the address of its repository into `source` and run this cell again.")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", source]
    if subprocess.run(pip, capture_output=True).returncode:
        sys.exit(f"Could not install {source}: check the network and the address, then run this cell again.")
