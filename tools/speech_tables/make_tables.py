"""make_tables.py FOLDER [OUT] - the tables of src/speech/tables from the packages that fetch.sh brought.

Python's standard library suffices. The same packages give the same bytes."""
import os
import sys

import chinese
import english
import traditional

if __name__ == "__main__":
    sys.setrecursionlimit(100000)
    folder = sys.argv[1]
    out = sys.argv[2] if len(sys.argv) > 2 else os.path.join(os.path.dirname(__file__), "../../src/speech/tables")
    english.main(folder, out)
    chinese.main(folder, out)
    traditional.main(folder, out)
