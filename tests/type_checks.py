"""What checks the package's annotations while tests run."""

from beartype import BeartypeConf, beartype

# A whole number is as good as a float, as PEP 484 has it.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
