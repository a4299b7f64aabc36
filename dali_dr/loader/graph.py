"""The DALI graph: sample and view numbers → read → decode what the views show → replay → a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from dali_dr import _plugin
from dali_dr.images.decoder import decoder_arguments
from dali_dr.loader.decoding import Decoding, route, where_foreign
from dali_dr.loader.options import (
    DecodeDevice,
    DecoderName,
    Device,
    DType,
    Layout,
    RoiDecode,
    check_decode_device,
    decodes_on_gpu,
)

OUTPUTS = ("data", "label", "soft_ids", "soft_probs", "index", "view")
"""What the pipeline returns, in order."""
MIX_OUTPUTS = ("mix_label", "mix_weight")
"""What follows with mixing: of each view the label that it is mixed with, and the weight of its image's own."""


def stacked(batch: Any) -> Any:
    """A copy of a pipeline's output, whose samples have one shape, as one torch tensor (B, …) on its device."""
    import torch

    tensor = torch.stack([torch.utils.dlpack.from_dlpack(batch[i]) for i in range(len(batch))])
    if tensor.is_cuda:  # DALI may reuse the batch's memory, on a stream of its own, as soon as `batch` is gone
        torch.cuda.current_stream().synchronize()
    return tensor


def replay_pipeline(
    source: Callable[[Any], Sequence[Any]],
    *,
    index: str,
    batch_size: int,
    device: Device,
    device_id: int | None,
    num_threads: int,
    size: tuple[int, int] | None,
    stored_size: int,
    interpolation: str,
    dtype: DType,
    mean: Sequence[float],
    std: Sequence[float],
    layout: Layout,
    mixing: bool = False,
    roi_decode: RoiDecode = "auto",
    decode_device: DecodeDevice = "auto",
    decoder: DecoderName = "auto",
    hw_decoder_load: float = 0.65,
    prefetch: int = 2,
    monitor: int = -1,
    reading: Mapping[str, Any] = MappingProxyType({}),
    resize_shorter: int = 0,
    partner_cache: int = -1,
    partner_cache_bytes: int = 0,
) -> Any:
    """Builds the pipeline that replays stored views, or fresh ones for view numbers below 0.

    Args:
      source: called with DALI's BatchInfo before each batch; returns (samples int64 (B,), views int32 (B,) or (B, m),
        which with mixing are the pairs of a double-mix), and, if size is None, sizes int32 (B, 2), the same in all rows.
      index: the data set's index.bin.
      mixing: views are mixed with those of partner images, whose stored crops are decoded too.
      roi_decode: decode only what the views show ("on"), or by DALI's decoder the whole image ("off"). "auto" is "on"; the
        switch exists because a decoder release may have trouble with regions on the GPU (NVIDIA/nvImageCodec#55).
      decode_device: "gpu" decodes by nvJPEG, whose pixels differ a little from libjpeg-turbo's; "cpu" by libjpeg-turbo, so
        that views made on the GPU, too, are those of the CPU in every byte, at the rate of the CPU's cores. "auto" is
        `device`.
      decoder: where the CPU decodes, "auto" decodes JPEGs by our own decoder (libjpeg-turbo; of tiled files only the tiles that
        a view shows), mostly straight into the resize, and other images by DALI's; "dali" decodes all by DALI's, which gives
        the same views.
      hw_decoder_load: share of the images for the GPU's JPEG engine (where the GPU decodes).
      prefetch: batches prepared ahead.
      monitor: number of the plugin's monitor that times read, decode and replay, and keeps their first fault; -1: none.
      reading: more arguments of `fn.dr.read`: of fresh views, and what is checked of what is read.
      resize_shorter: of a fixed resize (`dali_dr.augment.fresh.resize_of`), as `fn.dr.replay` takes it.
      partner_cache: with mixing: number of the plugin's cache that keeps partners decoded (`dali_dr.loader.partners`); -1:
        none. Where DALI decodes, it is not used.
      partner_cache_bytes: that it may hold.
      The others are those of `dali_dr.ReinforcedIterator`.

    Returns:
      nvidia.dali.Pipeline with the outputs OUTPUTS, with mixing MIX_OUTPUTS, too; bfloat16 comes as its bits in int16, for want
        of a type in DALI.
    """
    check_decode_device(decode_device, device)
    dr, fn, pipeline_def, types = _dali(device)
    dtypes = {"uint8": types.UINT8, "float16": types.FLOAT16, "bfloat16": types.INT16, "float32": types.FLOAT}
    decoding = Decoding(
        route(device, decode_device, decoder, roi_decode), dr, fn, types, device=device,
        on_gpu=decodes_on_gpu(device, decode_device), monitor=monitor, hw_decoder_load=hw_decoder_load,
    )  # fmt: skip
    finish = {"mean": mean, "std": std, "dtype": dtypes[dtype], "output_layout": layout}
    kept = {"partner_cache": partner_cache, "partner_cache_bytes": partner_cache_bytes}
    kept = kept if mixing and decoding.ours and partner_cache >= 0 else {}
    geometry = {"stored_size": stored_size, "interpolation": interpolation, "resize_shorter": resize_shorter}

    @pipeline_def(  # type: ignore[untyped-decorator]
        batch_size=batch_size, num_threads=num_threads, device_id=device_id, prefetch_queue_depth=prefetch
    )
    def graph() -> tuple[Any, ...]:
        inputs = [types.INT64, types.INT32, types.INT32][: 2 if size else 3]
        samples, views, *sizes = fn.external_source(source, num_outputs=len(inputs), batch_info=True, dtype=inputs)
        encoded, label, start, shape, params, soft_ids, soft_probs, *more = dr.read(
            samples, views, index=index, mixing=mixing, monitor=monitor, **decoding.reading, **reading, **kept
        )
        image, partner, labels = [encoded, start, shape], more[:3] if mixing else [], more[3:5] if mixing else []
        asked = more[len(partner) + len(labels) :]  # of the image, and with mixing of the partner
        image += asked[:1]
        partner += asked[1:]
        data = decoding.views(
            params, image, partner, {"size": size or sizes[0], "monitor": monitor, **geometry, **finish}
        )
        outputs = data, label, soft_ids, soft_probs, samples, views, *labels
        return tuple(output.gpu() for output in outputs) if device == "gpu" else outputs

    return graph()


def view_pipeline(
    source: Callable[[Any], Sequence[Any]],
    *,
    batch_size: int,
    device: Device,
    device_id: int | None,
    num_threads: int,
    size: tuple[int, int],
    stored_size: int,
    interpolation: str,
    mixing: bool = False,
    decode_device: DecodeDevice = "auto",
    prefetch: int = 2,
    resize_shorter: int = 0,
) -> Any:
    """Builds the pipeline that generation and previews use: images and view parameters in, uint8 views out.

    It replays by the same operator as training, which is why a training batch shows the very pixels that the teacher saw.

    Args:
      source: called with DALI's BatchInfo; returns (list of encoded images, list of int32 (m, words) packed views), or
        raises StopIteration at the end. With mixing, per view: (encoded images, packed views int32 (words,), place of the
        view's image among those, encoded partner images, place of its partner among those); the places are int32. A
        batch has as many entries as views; images that no view asks for are decoded in vain, so let them be small.
      mixing: views are mixed, and therefore float32 in 0 … 255.
      decode_device: as `replay_pipeline` takes it; on the CPU, JPEGs are decoded by our own decoder.
      The others are those of `replay_pipeline`.

    Returns:
      nvidia.dali.Pipeline with one output: (m, 3, height, width) uint8 per image; with mixing (3, height, width) float32
      per view.
    """
    check_decode_device(decode_device, device)
    dr, fn, pipeline_def, types = _dali(device)
    on_gpu = decodes_on_gpu(device, decode_device)
    view: dict[str, Any] = {
        "size": size, "stored_size": stored_size, "interpolation": interpolation, "resize_shorter": resize_shorter,
    }  # fmt: skip

    def by_dali(encoded: Sequence[Any]) -> Any:
        return fn.decoders.image(encoded[0], **decoder_arguments(on_gpu))

    def decode(encoded: Any) -> Any:
        if on_gpu:
            return by_dali([encoded])
        foreign = where_foreign(fn, types, dr.foreign(encoded), [encoded], by_dali)
        pixels = dr.decode(encoded, foreign)
        return pixels.gpu() if device == "gpu" else pixels

    @pipeline_def(  # type: ignore[untyped-decorator]
        batch_size=batch_size, num_threads=num_threads, device_id=device_id, prefetch_queue_depth=prefetch
    )
    def graph() -> Any:
        if not mixing:
            encoded, params = fn.external_source(
                source, num_outputs=2, batch_info=True, dtype=[types.UINT8, types.INT32]
            )
            return dr.replay(decode(encoded), params, **view)
        dtype = [types.UINT8, types.INT32, types.INT32, types.UINT8, types.INT32]
        inputs = fn.external_source(source, num_outputs=5, batch_info=True, dtype=dtype)
        encoded, params, places, partners, partner_places = inputs
        images = fn.permute_batch(decode(encoded), indices=places)
        partner_images = fn.permute_batch(decode(partners), indices=partner_places)
        return dr.replay(images, params, partner_images, dtype=types.FLOAT, **view)

    return graph()


def _dali(device: Device) -> tuple[Any, Any, Any, Any]:
    """Our operators and DALI's, its pipelines and types, with the plugin loaded and what `device` needs checked."""
    _plugin.load()
    if device == "gpu":
        _plugin.require_gpu()
    from nvidia.dali import fn, pipeline_def, types

    return fn.dr, fn, pipeline_def, types  # type: ignore[attr-defined]  # registered by the plugin
