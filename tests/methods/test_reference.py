"""Parity with the official implementations, where their numbers are at hand.

Set QUANTEXP_REFERENCE_DATA to a folder with ``models/`` and ``reference/``.
"""

from pathlib import Path
from typing import Any

import pytest
from helpers import make_config, silent

from quantexp.experiment.calibrate import calibrate
from quantexp.experiment.cell import Cell
from quantexp.experiment.evaluate import evaluate

W4, W3, W8A8, W4A4KV4 = (4, 16, 16, 16), (3, 16, 16, 16), (8, 8, 16, 16), (4, 4, 4, 4)
OUTLIERS = "stories260K-outliers"
AWQ = "asymmetric_clamped"
_OUTPUT = {"bits": 8, "scheme": "symmetric"}
_BEFORE_ROPE = {**_OUTPUT, "granularity": "per_token_before_rope"}
BMM = {  # quantize_bmm_input: outputs of q, k and v, whole tokens
    "key": _BEFORE_ROPE,
    "value": {**_OUTPUT, "granularity": "per_token"},
    "query": _BEFORE_ROPE,
}


def measure(
    folder: Path,
    outputs: Path,
    method: str,
    bits: tuple[int, int, int, int],
    rounding: str = "rtn",
    model: str = "stories260K",
    scheme: str = "symmetric",
    options: dict[str, Any] | None = None,
    gptq: dict[str, Any] | None = None,
    tensors: dict[str, dict[str, Any]] | None = None,
) -> float:
    files = folder / "reference"
    config = make_config(
        folder / "models" / model, method, bits, options=options or {},
        tensors={"weight": {"scheme": scheme}, **(tensors or {})},
        rounding=rounding, gptq=gptq or {},
        data={"name": "local", "path": str(files / "calibration_windows_stories260K.json")},
        evaluation={
            "name": "local",
            "block_error_windows": 0,
            "perplexity": [
                {
                    "name": "tinystories",
                    "path": str(files / "evaluation_windows_stories260K_tinystories.json"),
                }
            ],
        },
        paths={"outputs": str(outputs)},
    )  # fmt: skip
    cell = Cell(config)
    if cell.quantized:
        calibrate(cell, silent)
    evaluate(cell, cell.evaluations[0], silent)
    result = cell.result(cell.evaluations[0])
    assert result is not None
    return float(result["value"])


@pytest.mark.parametrize(
    ("method", "bits", "rounding", "official"),
    [
        ("none", (16, 16, 16, 16), "rtn", 4.52725),
        ("rtn", W4, "rtn", 5.33367),
        ("rtn", W4, "gptq", 5.08393),
        ("rtn", W3, "gptq", 13.3238),
        ("rtn", W4A4KV4, "rtn", 15.6178),
        ("rtn", W8A8, "rtn", 4.53243),
    ],
)
def test_perplexity_is_the_official_implementations(
    reference: str,
    tmp_path: Path,
    method: str,
    bits: tuple[int, int, int, int],
    rounding: str,
    official: float,
) -> None:
    found = measure(Path(reference), tmp_path, method, bits, rounding)
    assert found == pytest.approx(official, rel=1e-3)


@pytest.mark.slow
def test_flatquant_reaches_the_official_implementation(reference: str, tmp_path: Path) -> None:
    # official: 6.144 ± 0.073 over three seeds
    assert measure(Path(reference), tmp_path, "flatquant", W4A4KV4) <= 6.30


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bits", "options", "official", "tolerance"),
    [
        # ours over three orders of the windows: 7.288, 7.194 and 7.201
        (W3, {}, 7.20789, 0.015),
        # LET at the norms alone, as the official code must under GQA. Rounding activations to
        # 4 bits is chaotic: other orders of windows, or of operations, gave 7.97 to 8.56.
        (
            W4A4KV4,
            {"let_lr": 1e-3, "alpha": 0.75, "letqk": "off", "letvo": False},
            8.38046,
            0.03,
        ),
    ],
)
def test_omniquant_reaches_the_official_implementation(
    reference: str,
    tmp_path: Path,
    bits: tuple[int, int, int, int],
    options: dict[str, Any],
    official: float,
    tolerance: float,
) -> None:
    free = {"scheme": "asymmetric_free"}
    tensors: dict[str, Any] = dict.fromkeys(("weight", "activation", "key", "value"), free)
    tensors["query"] = {"bits": bits[1], **free}
    found = measure(Path(reference), tmp_path, "omniquant", bits, options=options, tensors=tensors)
    assert found <= official * (1 + tolerance)  # at least as good; better is welcome


def _gptq(act_order: bool, true_sequential: bool) -> dict[str, Any]:
    return {
        "rounding": "gptq", "gptq": {"act_order": act_order, "true_sequential": true_sequential}
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "bits", "more", "official"),
    [
        # IST-DASLab/gptq --nearest, its asymmetric and its symmetric form; AWQ's quantizer
        ("rtn", W3, {"scheme": "asymmetric"}, 11.2861),
        ("rtn", W4, {"scheme": "asymmetric"}, 5.14044),
        ("rtn", W3, {"scheme": "symmetric_full"}, 13.9406),
        ("rtn", W4, {"scheme": "symmetric_full"}, 5.3145),
        ("rtn", W3, {"scheme": "asymmetric_clamped"}, 11.2861),
        # IST-DASLab/gptq, with and without act order and true sequential
        ("rtn", W4, {"scheme": "asymmetric", **_gptq(False, False)}, 4.91187),
        ("rtn", W4, {"scheme": "asymmetric", **_gptq(False, True)}, 4.91306),
        ("rtn", W4, {"scheme": "asymmetric", **_gptq(True, True)}, 4.83222),
        ("rtn", W4, {"scheme": "asymmetric", **_gptq(True, False)}, 4.85864),
        ("rtn", W3, {"scheme": "asymmetric", **_gptq(False, False)}, 7.52201),
        ("rtn", W3, {"scheme": "symmetric_full", **_gptq(False, False)}, 9.14818),
        ("rtn", W3, {"scheme": "symmetric_full", **_gptq(True, True)}, 8.98749),
        # the FlatQuant repository's GPTQ and quantizers
        ("rtn", W8A8, {"rounding": "gptq"}, 4.53049),
        ("rtn", W3, {"model": OUTLIERS, "rounding": "gptq"}, 18.4846),
        ("rtn", W8A8, {"model": OUTLIERS}, 4.62452),
        # llm-awq, groups of whole rows; the two searches alone
        ("rtn", W4, {"scheme": AWQ}, 5.14044),
        ("awq", W4, {"scheme": AWQ}, 4.94446),
        ("awq", W4, {"scheme": AWQ, "options": {"clipping": False}}, 5.04125),
        ("awq", W4, {"scheme": AWQ, "options": {"scaling": False}}, 4.98843),
        # smoothquant
        ("smoothquant", W8A8, {"options": {"alpha": 0.5}}, 4.53502),
        ("smoothquant", W8A8, {"options": {"alpha": 0.8}}, 4.52722),
        ("rtn", W8A8, {"tensors": BMM}, 4.55034),
        ("smoothquant", W8A8, {"options": {"alpha": 0.5}, "tensors": BMM}, 4.55299),
        ("smoothquant", W8A8, {"options": {"alpha": 0.85}, "tensors": BMM}, 4.55397),
        ("smoothquant", W8A8, {"options": {"alpha": 0.5}, "model": OUTLIERS}, 4.55749),
        ("smoothquant", W8A8, {"options": {"alpha": 0.8}, "model": OUTLIERS}, 4.55429),
    ],
)
def test_settings_and_schemes_are_the_official_ones(
    reference: str,
    tmp_path: Path,
    method: str,
    bits: tuple[int, int, int, int],
    more: dict[str, Any],
    official: float,
) -> None:
    found = measure(Path(reference), tmp_path, method, bits, **more)
    assert found == pytest.approx(official, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "official", "tolerance"),
    [
        # 1 % more damping alone moves ours from 15.3 to 14.7: rounding to 4 bits is chaotic
        ({"rounding": "gptq"}, 15.0066, 0.03),
        ({"model": OUTLIERS}, 1537.04, 0.005),
    ],
)
def test_four_bit_activations_come_as_near_as_they_can(
    reference: str, tmp_path: Path, more: dict[str, Any], official: float, tolerance: float
) -> None:
    found = measure(Path(reference), tmp_path, "rtn", W4A4KV4, **more)
    assert found == pytest.approx(official, rel=tolerance)


@pytest.mark.slow
def test_awq_at_three_bits_comes_as_near_as_the_last_bit_allows(
    reference: str, tmp_path: Path
) -> None:
    # A clip that cuts both ends makes the zero point of AWQ's quantizer a tie (3.5), decided by
    # the last bit of the scaled weight. With equal scales our integers are the official code's,
    # all of them; but changing mean|x| by 1e-7 alone moves its perplexity from 7.69 to 7.76.
    found = measure(Path(reference), tmp_path, "awq", W3, scheme=AWQ)
    assert found == pytest.approx(7.71722, rel=0.01)
