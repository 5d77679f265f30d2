"""The checker of types and shapes at run time: beartype, for which an int may stand for a float, as for mypy."""

import beartype

checker = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))
