"""TFRecord files of ``tf.train.Example``, made by protobuf and tensorboard."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from tensorboard.summary.writer.record_writer import RecordWriter

BYTES, FLOAT, INT64 = 12, 2, 3
MESSAGE, REPEATED, OPTIONAL = 11, 3, 1


def example_class() -> Any:
    """The class of ``tf.train.Example``."""
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="t", syntax="proto3")
    for name, kind in (("BytesList", BYTES), ("FloatList", FLOAT), ("Int64List", INT64)):
        file.message_type.add(name=name).field.add(name="value", number=1, type=kind, label=REPEATED)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, name in enumerate(("bytes_list", "float_list", "int64_list"), 1):
        kind = {"bytes_list": ".t.BytesList", "float_list": ".t.FloatList", "int64_list": ".t.Int64List"}[name]
        feature.field.add(name=name, number=number, type=MESSAGE, label=OPTIONAL, type_name=kind, oneof_index=0)
    features = file.message_type.add(name="Features")
    features.field.add(name="feature", number=1, type=MESSAGE, label=REPEATED, type_name=".t.Features.FeatureEntry")
    entry = features.nested_type.add(name="FeatureEntry", options=descriptor_pb2.MessageOptions(map_entry=True))
    entry.field.add(name="key", number=1, type=9, label=OPTIONAL)
    entry.field.add(name="value", number=2, type=MESSAGE, label=OPTIONAL, type_name=".t.Feature")
    file.message_type.add(name="Example").field.add(
        name="features", number=1, type=MESSAGE, label=OPTIONAL, type_name=".t.Features"
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Example"))


EXAMPLE = example_class()


def encoded(features: Mapping[str, Any]) -> bytes:
    """An example of byte strings, texts, floats and integers, or lists of these."""
    example = EXAMPLE()
    for name, value in features.items():
        values = value if isinstance(value, list) else [value]
        feature = example.features.feature[name]
        if all(isinstance(each, int) for each in values):
            feature.int64_list.value.extend(values)
        elif all(isinstance(each, float) for each in values):
            feature.float_list.value.extend(values)
        else:
            feature.bytes_list.value.extend(each.encode() if isinstance(each, str) else each for each in values)
    data: bytes = example.SerializeToString()
    return data


def framed(records: Iterable[bytes]) -> bytes:
    """The bytes of a file of records."""
    file = io.BytesIO()
    writer = RecordWriter(file)
    for record in records:
        writer.write(record)
    return file.getvalue()


def write_records(path: Path, records: Iterable[Mapping[str, Any]]) -> Path:
    path.write_bytes(framed(map(encoded, records)))
    return path
