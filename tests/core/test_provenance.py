"""Provenance metadata of saved images, read back by refiner and byte by byte."""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from refiner.errors import ConfigError, InputError, MissingImageError
from refiner.masks import rle_encode
from refiner.metadata import MOST_KEPT, XMP, Kept
from refiner.provenance import Provenance, jpeg, kept_of, png, read, save, slim
from refiner.records import to_record
from refiner.reports.result import save_result
from refiner.taxonomy import Category
from refiner.types import Analysis, Attempt, RefinementResult, Region, Size

MADE, MENDED = "trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia"
IPTC = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"
CAMERA = "http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture"
OTHERS = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
    'xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:e="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"{attribute}>'
    "<dc:creator><rdf:Seq><rdf:li>Zoë &amp; Co</rdf:li></rdf:Seq></dc:creator>{element}</rdf:Description></rdf:RDF>"
    '</x:xmpmeta><?xpacket end="w"?>'
)
SOURCE_TYPES = {
    "attribute": OTHERS.format(attribute=f" e:DigitalSourceType='{CAMERA}'", element=""),
    "element": OTHERS.format(attribute="", element=f"<e:DigitalSourceType>{CAMERA}</e:DigitalSourceType>"),
    "resource": OTHERS.format(attribute="", element=f'<e:DigitalSourceType rdf:resource="{CAMERA}"/>'),
}


def picture(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 48, 3), dtype=np.uint8))


def attempt(index: int, action: str, **changes: object) -> Attempt:
    mask = np.zeros((40, 48), dtype=np.bool_)
    mask[4:9, 5:11] = True
    region = Region(mask=mask, box=(5, 4, 11, 9), name="die Hand 手", category=Category.ANATOMY)
    analysis = Analysis(size=Size(40, 48), regions=(region,), detector="legion:/home/zoe/weights/legion", raw="babble")
    fields = {"prompt": "a hand", "seed": 7 + index, "image": picture(index), "analysis": analysis, "painted": mask}
    fields |= {"accepted": True, "reason": "better"}
    return Attempt(index=index, action=action, **fields | changes)


def result(*actions: str, **changes: object) -> RefinementResult:
    attempts = tuple(attempt(index, action, **changes) for index, action in enumerate(actions))
    return RefinementResult(prompt=attempts[0].prompt, attempts=attempts, best=len(attempts) - 1, stop="rounds")


def chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The chunks of a PNG file."""
    place = 8
    while place < len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        yield data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        place += 12 + length


def segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The segments of a JPEG file before its pixels."""
    place = 2
    while data[place + 1] != 0xDA:
        (length,) = struct.unpack(">H", data[place + 2 : place + 4])
        yield data[place + 1], data[place + 4 : place + 2 + length]
        place += 2 + length


@pytest.mark.parametrize("ending", ["png", "jpg", "JPEG"])
@pytest.mark.parametrize(
    ("actions", "kind"),
    [
        (("generate",), MADE),
        (("generate", "inpaint"), MADE),
        (("given",), None),
        (("given", "inpaint"), MENDED),
        (("given", "regenerate"), MADE),
    ],
)
def test_a_saved_picture_says_who_made_it_and_how(tmp_path: Path, ending: str, actions: tuple[str], kind: str) -> None:
    made = result(*actions)
    file = save(made, tmp_path / f"picture.{ending}", {"model": "micro"})
    said = read(file)
    assert said.source_type == kind
    assert said.record == {**slim(to_record(made, {"model": "micro"}, {})), "attempt": made.best}
    with Image.open(file) as saved:
        assert saved.size == made.image.size
        if ending == "png":
            assert np.array_equal(np.asarray(saved), np.asarray(made.image))


def test_a_png_holds_an_itxt_chunk_of_utf8_json_and_an_xmp_packet(tmp_path: Path) -> None:
    found = [body.split(b"\0", 1) for kind, body in chunks(save(result("generate"), tmp_path / "a.png").read_bytes())
             if kind == b"iTXt"]  # fmt: skip
    texts = dict(found)
    assert len(texts) == len(found)
    compressed, rest = texts[b"refiner"][:2], texts[b"refiner"][4:]
    assert compressed == b"\1\0"
    record = json.loads(zlib.decompress(rest).decode())
    assert record["attempts"][0]["analysis"]["regions"][0]["name"] == "die Hand 手"
    packet = ElementTree.fromstring(texts[XMP.encode()].split(b"\0\0\0\0", 1)[1])
    (place,) = [element for element in packet.iter() if IPTC in element.attrib]
    assert place.attrib[IPTC] == f"http://cv.iptc.org/newscodes/digitalsourcetype/{MADE}"


def test_a_jpeg_holds_one_xmp_segment(tmp_path: Path) -> None:
    found = list(segments(save(result("generate"), tmp_path / "a.jpg").read_bytes()))
    packets = [body for kind, body in found if kind == 0xE1]
    assert len(packets) == 1
    head, _, packet = packets[0].partition(b"\0")
    assert head == b"http://ns.adobe.com/xap/1.0/"
    (place,) = [element for element in ElementTree.fromstring(packet).iter() if IPTC in element.attrib]
    packed = place.attrib["{urn:refiner:provenance}Record"]
    assert json.loads(zlib.decompress(base64.b64decode(packed)))["prompt"] == "a hand"


def test_the_record_has_no_masks_no_times_and_no_folders_of_the_machine(tmp_path: Path) -> None:
    config = {"model": "/home/zoe/models/sdxl", "detector": "vlm:C:\\models\\qwen", "url": "vlm:m@http://a:1/v1"}
    made = result("generate", "inpaint")
    text = json.dumps(read(save(made, tmp_path / "a.png", {**config, "prompt": "a / b"})).record)
    assert rle_encode(made.attempts[0].painted)["counts"] not in [
        value for value in json.loads(text)["attempts"][0].values() if isinstance(value, dict)
    ]
    for secret in ("zoe", "C:", "babble", '"mask"', '"painted"', "created", "platform", "seconds"):
        assert secret not in text
    record = json.loads(text)
    assert record["config"] == {"model": "sdxl", "detector": "vlm:qwen", "url": config["url"], "prompt": "a / b"}
    assert record["attempts"][0]["analysis"]["detector"] == "legion:legion"
    assert record["environment"]["versions"]["refiner"]


@pytest.mark.parametrize("write", [png, jpeg])
@pytest.mark.parametrize("form", SOURCE_TYPES)
def test_other_metadata_stays_and_source_types_never_contradict(tmp_path: Path, write: object, form: str) -> None:
    original = tmp_path / "original.jpg"
    picture().save(original, xmp=SOURCE_TYPES[form].encode())
    kept = kept_of(original)
    assert kept.source_type == "digitalCapture"
    assert read(original) == Provenance(source_type="digitalCapture", record=None)
    file = tmp_path / "picture"
    file.write_bytes(write(picture(), Provenance(source_type=MENDED, record={"prompt": "one"}), kept))
    file.write_bytes(write(picture(), Provenance(source_type=MENDED, record={"prompt": "two"}), kept_of(file)))
    packet = kept_of(file).xmp
    assert packet.count("DigitalSourceType=") == 1
    assert "digitalCapture" not in packet
    assert "Zoë &amp; Co" in packet
    assert read(file) == Provenance(source_type=MENDED, record={"prompt": "two"})


def test_a_picture_made_by_a_model_stays_one_when_it_is_mended(tmp_path: Path) -> None:
    first = save(result("generate"), tmp_path / "first.png")
    again = save(result("given", "inpaint"), tmp_path / "again.jpg", made_from=first)
    assert read(again).source_type == MADE
    untouched = save(result("given"), tmp_path / "untouched.png", made_from=first)
    assert read(untouched).source_type == MADE


def test_colours_keep_their_meaning(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture().save(tmp_path / "original.png", icc_profile=profile)
    files = save_result(result("given", "inpaint"), tmp_path / "out", made_from=tmp_path / "original.png")
    for name in ("best", "start"):
        with Image.open(files[name]) as saved:
            assert saved.info["icc_profile"] == profile
    plain = save_result(result("given", "inpaint"), tmp_path / "plain")
    with Image.open(plain["best"]) as saved:
        assert "icc_profile" not in saved.info


def test_every_picture_of_a_report_is_labelled(tmp_path: Path) -> None:
    files = save_result(result("given", "inpaint"), tmp_path)
    for name, path in files.items():
        if path.endswith(".png"):
            said = read(path)
            given = name in ("start", "attempt-00", "regions-00")
            assert said.source_type == (None if given else MENDED), name
            assert said.record["prompt"] == "a hand"
    sheet = read(save_result(result("given", "inpaint", "inpaint"), tmp_path)["sheet"])
    assert sheet.source_type == MENDED


def test_equal_runs_give_equal_files(tmp_path: Path) -> None:
    for ending in ("png", "jpg"):
        first, again = (
            save(result("generate", seconds=number), tmp_path / f"{number}.{ending}") for number in (1.0, 2.0)
        )
        assert first.read_bytes() == again.read_bytes()


def noise(length: int) -> str:
    """Text that compresses badly."""
    return base64.b64encode(np.random.default_rng(0).bytes(length)).decode()


@pytest.mark.parametrize(
    ("changes", "left"),
    [
        ({"reason": noise(1_000)}, {"prompt", "attempts", "attempt"}),
        ({"reason": noise(60_000)}, {"prompt", "attempt"}),
        ({"prompt": noise(100_000)}, None),
    ],
)
@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_a_long_record_loses_its_details_and_its_settings_last(
    tmp_path: Path, ending: str, changes: dict[str, str], left: set[str] | None
) -> None:
    packet = SOURCE_TYPES["element"].replace("Zoë", "Z" * (MOST_KEPT - 2_000))
    picture().save(tmp_path / "original.jpg", xmp=packet.encode())
    made = result("given", *["inpaint"] * 3, **changes)
    file = save(made, tmp_path / f"a.{ending}", made_from=tmp_path / "original.jpg")
    said = read(file)
    assert said.source_type == MENDED
    assert said.record is None if left is None else said.record.keys() >= left
    assert file.stat().st_size < 250_000
    assert b"ZZZ" in file.read_bytes()


def test_too_much_of_others_is_let_go(tmp_path: Path) -> None:
    packet = SOURCE_TYPES["element"].replace("Zoë", "Z" * MOST_KEPT)
    picture().save(tmp_path / "original.jpg", xmp=packet.encode())
    assert kept_of(tmp_path / "original.jpg").xmp == ""


@pytest.mark.parametrize(
    "packet",
    [
        "",
        "<",
        "no XML at all",
        '<!DOCTYPE x [<!ENTITY a "a"><!ENTITY b "&a;&a;">]>' + SOURCE_TYPES["element"],
        SOURCE_TYPES["element"][:-60],
        SOURCE_TYPES["element"].replace("rdf:RDF", "r:RDF"),
        "<a>" * 2_000,
        "\0" * 100,
    ],
)
def test_packets_that_cannot_be_read_are_left_out(tmp_path: Path, packet: str) -> None:
    picture().save(tmp_path / "original.jpg", xmp=packet.encode())
    kept = kept_of(tmp_path / "original.jpg")
    for name, write in (("a.png", png), ("a.jpg", jpeg)):
        (tmp_path / name).write_bytes(write(picture(), Provenance(source_type=MADE, record={"prompt": "x"}), kept))
        assert read(tmp_path / name) == Provenance(source_type=MADE, record={"prompt": "x"})


@pytest.mark.parametrize(
    "record", ["", "{", "[]", "null", "7", '"text"', "[" * 100_000, '{"a": NaN', "\ud800".encode(errors="ignore")]
)
def test_a_record_that_is_none_reads_as_none(tmp_path: Path, record: str) -> None:
    info = PngInfo()
    info.add_itxt("refiner", record, zip=True)
    picture().save(tmp_path / "a.png", pnginfo=info)
    assert read(tmp_path / "a.png") == Provenance(source_type=None, record=None)


@pytest.mark.parametrize("packed", [b"x", *(zlib.compress(text) for text in (b"7", b"\xff" * 9, b" " * 10**7)), None])
def test_a_packed_record_that_is_none_reads_as_none(tmp_path: Path, packed: bytes | None) -> None:
    written = "not base64!" if packed is None else base64.b64encode(packed).decode()
    data = jpeg(picture(), Provenance(source_type=MADE, record={"prompt": "x"}))
    with Image.open(io.BytesIO(data)) as image:
        packet = image.info["xmp"].decode()
    before, _, rest = packet.partition('Record="')
    picture().save(tmp_path / "a.jpg", xmp=f'{before}Record="{written}"{rest.partition(chr(34))[2]}'.encode())
    assert read(tmp_path / "a.jpg") == Provenance(source_type=MADE, record=None)


def test_files_that_are_no_pictures_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    picture().save(tmp_path / "a.gif")
    data = png(picture(), Provenance(source_type=MADE, record=None))
    (tmp_path / "short.png").write_bytes(data[: len(data) // 2])
    for name in ("text.png", "a.gif", "short.png", "."):
        with pytest.raises(InputError, match="cannot be read as a PNG or JPEG file"):
            read(tmp_path / name)
        assert kept_of(tmp_path / name) == Kept()
    with pytest.raises(MissingImageError, match="does not exist"):
        read(tmp_path / "nothing.png")
    with pytest.raises(ConfigError, match=r"\.png or \.jpg"):
        save(result("generate"), tmp_path / "a.webp")
