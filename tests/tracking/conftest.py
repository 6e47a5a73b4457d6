import sys
from pathlib import Path

# the small outputs folder is shared with the tests of the report
sys.path.insert(0, str(Path(__file__).parents[1] / "report"))
