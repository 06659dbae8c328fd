"""Where KorQuAD's official files are, and their content as git blob ids."""

from __future__ import annotations

from harness.core.task import RemoteFile

OFFICIAL = "https://raw.githubusercontent.com/korquad/korquad.github.io/master/dataset"
_DEV_2 = (
    "60724538158c89880c9a46c4f107bafaaffeeb14",
    "5f89dc1f148f72902f5ceea33024b179b923b64a",
)
_TRAIN_2 = (
    "88328a2f9c4f196786eab52f4ea598439887e8c0",
    "edc00ed4d0e45104930ada22fa5869b0d7f4e17e",
    "a2273272f976e7da36ee004db8b1686128594bd7",
    "31a4729443d3425d3ff368d128044148961dade1",
    "d3029960e99a0948154a1b9be6f780275161ad7f",
    "35ed708e5b73af4bb800649d69825469ec2f7851",
    "a673615f8cc94c28c3adc850bb66c757e9b3e41e",
    "83ed111e5a6f78a581b0c228c3a2812fdf34031b",
    "7664a5c72c8ed552599774ba7476f613f3de09a3",
    "ed81f94099f540787571b378493813009a1de947",
    "7c41f6f8c6d7c64dc48c092d34abfec61a8447fe",
    "f9c56f68b9c1313a89cc8cd7a55649b1fa210119",
    "110332e1cef6068386bed56b587881ef1de177a9",
)

FILES_1 = tuple(
    RemoteFile(name, f"{OFFICIAL}/{name}", blob)
    for name, blob in (
        ("KorQuAD_v1.0_train.json", "82e3c5939e5e61a1c4ae94e42676800e88ec52a6"),
        ("KorQuAD_v1.0_dev.json", "6849d8c79140447018f5701a0453835c96608a07"),
    )
)
"""KorQuAD 1.0."""


def _archives(part: str, blobs: tuple[str, ...]) -> tuple[RemoteFile, ...]:
    names = [f"KorQuAD_2.1_{part}_{number:02d}.zip" for number in range(len(blobs))]
    return tuple(
        RemoteFile(name, f"{OFFICIAL}/KorQuAD_2.1/{part}/{name}", blob) for name, blob in zip(names, blobs, strict=True)
    )


FILES_2 = (*_archives("dev", _DEV_2), *_archives("train", _TRAIN_2))
"""KorQuAD 2.1."""
