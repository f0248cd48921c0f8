"""What boards tell of heat, in files as their kernels write them."""

import pytest

from edgeml_agent.system import thermal


def written(sys, **files):
    """A folder like /sys; `__` in a name is a slash, `_at_` an @, `_of_` a colon."""
    for name, content in files.items():
        path = sys / name.replace("__", "/").replace("_at_", "@").replace("_of_", ":")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return sys


def test_thermal_without_sensors_has_no_figures(tmp_path):
    """None is not a cool CPU."""
    assert (thermal.celsius(tmp_path), thermal.is_throttled(tmp_path), thermal.throttle_count(tmp_path)) == (
        None,
        None,
        None,
    )


def test_the_hottest_zone_of_the_cpu_counts(tmp_path):
    """Not the battery's, nor one that can't be read now."""
    zone = "class__thermal__thermal_zone"
    zones = {
        f"{zone}0__type": "cpu-thermal\n",
        f"{zone}0__temp": "48312\n",
        f"{zone}1__type": "soc_thermal\n",
        f"{zone}1__temp": "51000\n",
        f"{zone}2__type": "battery\n",
        f"{zone}2__temp": "90000\n",
        f"{zone}3__type": "x86_pkg_temp\n",
    }
    assert thermal.celsius(written(tmp_path, **zones)) == 51.0


@pytest.mark.parametrize(
    ("content", "is_throttled"),
    [("0\n", False), ("50000\n", False), ("50005\n", True), ("1\n", False), ("80008\n", True)],
)
@pytest.mark.parametrize("soc", ["soc", "soc_at_107c000000"])
def test_thermal_of_a_raspberry_pi_shows_current_throttling(content, is_throttled, soc, tmp_path):
    """What has been since the start is no state, and a voltage that is low alone slows nothing."""
    file = f"devices__platform__{soc}__{soc}_of_firmware__get_throttled"
    assert thermal.is_throttled(written(tmp_path, **{file: content})) is is_throttled


def test_x86_counts_for_each_core(tmp_path):
    """Together they are the machine's."""
    counts = {f"devices__system__cpu__cpu{core}__thermal_throttle__core_throttle_count": f"{core}\n" for core in (1, 4)}
    assert thermal.throttle_count(written(tmp_path, **counts)) == 5
