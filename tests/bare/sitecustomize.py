"""First on the path of a bare machine: Python imports it by itself, and then finds no package of `ABSENT`."""

import sys

from tests.bare import ABSENT

sys.modules.update(dict.fromkeys(ABSENT))
