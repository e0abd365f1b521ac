"""constraints-oldest.txt pins the oldest version of each package that setup.cfg claims."""

import configparser

from house import sources


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read_string(sources("setup.cfg")["setup.cfg"])
    return parser


def requirements(*extras: str) -> set[str]:
    """Lines such as `torch>=2.10`: those of every installation and those of the extras."""
    parser = setup_cfg()
    texts = [parser["options"]["install_requires"], *(parser["options.extras_require"][extra] for extra in extras)]
    return {line for text in texts for line in text.split("\n") if line}


def all_extras() -> list[str]:
    return list(setup_cfg()["options.extras_require"])


# --- the oldest versions ---


def oldest_versions_violations(claimed: set[str], pinned: set[str]) -> list[str]:
    found = [f"{line}: has no lower bound; write name>=version" for line in claimed if ">=" not in line]
    oldest = {line.split(",")[0].replace(">=", "==") for line in claimed if ">=" in line}
    found += [f"{line}: claimed by setup.cfg, not in constraints-oldest.txt" for line in oldest - pinned]
    return sorted(found + [f"{line}: in constraints-oldest.txt, not claimed by setup.cfg" for line in pinned - oldest])


def test_the_oldest_versions_are_those_that_setup_cfg_claims():
    lines = sources("constraints-oldest.txt")["constraints-oldest.txt"].splitlines()
    pinned = {line for line in lines if not line.startswith("#")}
    assert oldest_versions_violations(requirements(*all_extras()), pinned) == []


def test_oldest_versions_catch_a_violation():
    claimed, pinned = {"torch>=2.10", "transformers>=5.17,<6"}, {"torch==2.10", "transformers==5.17"}
    assert oldest_versions_violations(claimed, pinned) == []
    assert len(oldest_versions_violations(claimed | {"torchvision"}, pinned)) == 1
    assert len(oldest_versions_violations(claimed | {"numpy>=1.26"}, pinned)) == 1
    assert len(oldest_versions_violations(claimed, pinned | {"numpy==1.26"})) == 1
    assert len(oldest_versions_violations(claimed, {"torch==2.11", "transformers==5.17"})) == 2


def test_the_oldest_python_is_the_one_that_setup_cfg_claims():
    options = setup_cfg()["options"]
    assert options["python_requires"].replace(">=", "python") + " --version" in sources("Makefile")["Makefile"]
