"""Class names are given only where their order is certain."""

from vjepa_hf.conversion.class_names import NO_NAMES, SSV2, class_names
from vjepa_hf.conversion.released import PROBES


def test_names_are_as_many_as_the_classes_and_differ():
    for dataset, count in (("ssv2", 174), ("in1k", 1000)):
        names = class_names(dataset)
        assert len(names) == len(set(names)) == count


def test_names_stand_in_the_data_sets_order():
    assert list(SSV2) == sorted(SSV2)  # the numbers of labels.json follow the alphabet
    assert SSV2[67].startswith("Pretending to open something") and SSV2[93] == "Pushing something from left to right"
    names = class_names("in1k")
    assert (names[0], names[207], names[999]) == ("tench", "golden retriever", "toilet tissue")


def test_every_released_probe_has_names_or_a_reason_not_to():
    assert set(PROBES) == {"ssv2", "in1k"} | set(NO_NAMES)
    for dataset in NO_NAMES:
        assert class_names(dataset) is None
    assert class_names("anything else") is None
