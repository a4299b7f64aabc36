// Crop, resize and flip, by one block of threads.
// Part of block.h, which includes it.
#ifndef DALI_DR_CSRC_IMAGE_BLOCK_RESIZE_H_
#define DALI_DR_CSRC_IMAGE_BLOCK_RESIZE_H_

#include <cstdint>

#include "image/block/block.h"

namespace dali_dr::image {

template <typename Block>
DR_BLOCK AxisTable BlockReplay<Block>::MakeTable(const Axis& axis, int32_t out, uint8_t* memory) {
  auto* range = reinterpret_cast<TapRange*>(memory);
  return {range, reinterpret_cast<int32_t*>(range + out), MaxTaps(axis)};
}

template <typename Block>
DR_BLOCK void BlockReplay<Block>::FillTable(const Axis& axis, int32_t window, int32_t out,
                                            const AxisTable& table) {
  block_.ForEach(out, [&](int32_t x) {
    TapRange range;
    Window(axis, window + x, &range.begin, &range.count);
    table.range[x] = range;
    const double center = Center(axis, window + x);
    double sum = 0.0;
    for (int32_t i = 0; i < range.count; ++i) sum = Add(sum, RawWeight(axis, center, range.begin + i));
    for (int32_t i = 0; i < range.count; ++i) {
      table.weight[x * table.taps + i] =
          FixedWeight(ShareOfSum(RawWeight(axis, center, range.begin + i), sum));
    }
  });
}

template <typename Block>
template <typename Sink>
DR_BLOCK void BlockReplay<Block>::Horizontal(const uint8_t* in, int64_t pitch, int32_t rows,
                                             const AxisTable& table, Sink write) {
  const int32_t groups = (rows + kResizeRows - 1) / kResizeRows;
  block_.ForEach(groups * width_, [&](int32_t i) {
    int32_t x;
    const int32_t row = batch_.out.columns.Divide(i, &x) * kResizeRows;
    const TapRange range = table.range[x];
    const int32_t* weight = table.weight + x * table.taps;
    const int32_t below = rows - 1 - row;
    const uint8_t* from[kResizeRows] = {in + row * pitch + 3 * int64_t{range.begin}};
    int32_t sum[kResizeRows][3] = {};
    DR_UNROLL
    for (int32_t k = 1; k < kResizeRows; ++k) from[k] = from[k - 1] + (k <= below ? pitch : 0);
    DR_UNROLL_TAPS
    for (int32_t t = 0; t < range.count; ++t) {
      const int32_t w = weight[t];
      DR_UNROLL
      for (int32_t k = 0; k < kResizeRows; ++k) {
        sum[k][0] += w * from[k][0];
        sum[k][1] += w * from[k][1];
        sum[k][2] += w * from[k][2];
        from[k] += 3;
      }
    }
    DR_UNROLL
    for (int32_t k = 0; k < kResizeRows; ++k) {
      if (k <= below)
        write(row + k, x, RoundWeighted(sum[k][0]), RoundWeighted(sum[k][1]), RoundWeighted(sum[k][2]));
    }
  });
}

template <typename Block>
template <typename Sink>
DR_BLOCK void BlockReplay<Block>::VerticalOfImage(const Job& job, const AxisTable& table, int32_t begin,
                                                  int32_t end, Sink write) {
  const uint8_t* const crop = InGlobal(job.crop);
  const int64_t pitch = job.pitch;
  const int32_t bytes = 3 * job.width, quads = (bytes + 3) / 4;
  block_.ForEach((end - begin) * quads, [&](int32_t i) {
    const int32_t row = i / quads, at = i % quads * 4;
    const TapRange range = table.range[begin + row];
    const int32_t* weight = table.weight + (begin + row) * table.taps;
    const uint8_t* from = crop + range.begin * pitch;
    int32_t sum[4] = {}, byte[4];
    DR_UNROLL
    for (int32_t k = 0; k < 4; ++k) byte[k] = at + k < bytes ? at + k : bytes - 1;
    for (int32_t t = 0; t < range.count; ++t, from += pitch) {
      const int32_t w = weight[t];
      DR_UNROLL
      for (int32_t k = 0; k < 4; ++k) sum[k] += w * from[byte[k]];
    }
    DR_UNROLL
    for (int32_t k = 0; k < 4; ++k) {
      if (at + k < bytes) write(row, at + k, RoundWeighted(sum[k]));
    }
  });
}

template <typename Block>
DR_BLOCK void BlockReplay<Block>::VerticalOfRing(const uint8_t* ring, int32_t ring_rows,
                                                 const AxisTable& table, int32_t begin, int32_t end) {
  const int32_t words = (width_ + 3) / 4, plane_row = 4 * words, row_bytes = 3 * plane_row,
                ring_bytes = ring_rows * row_bytes;
  const int32_t first = table.range[begin].begin, slot = first % ring_rows - first;
  block_.ForEach((end - begin) * words, [&](int32_t i) {
    int32_t x;
    const int32_t y = begin + batch_.out.words.Divide(i, &x);
    x *= 4;
    const TapRange range = table.range[y];
    const int32_t* weight = table.weight + y * table.taps;
    int32_t at = slot + range.begin, sum[3][4] = {};
    at = (at < ring_rows ? at : at - ring_rows) * row_bytes;
    for (int32_t t = 0; t < range.count; ++t) {
      const int32_t w = weight[t];
      DR_UNROLL
      for (int32_t c = 0; c < 3; ++c) {
        const uint32_t word = LoadWord(ring + at + c * plane_row + x);
        DR_UNROLL
        for (int32_t k = 0; k < 4; ++k) sum[c][k] += w * ByteOf(word, k);
      }
      at += row_bytes;
      if (at == ring_bytes) at = 0;
    }
    DR_UNROLL
    for (int32_t c = 0; c < 3; ++c) {
      uint8_t* to = pixels_ + plane_[c] + y * width_ + x;
      if (width_ % 4 == 0) {
        StoreWord(to, RoundWeighted(sum[c][0]) | uint32_t{RoundWeighted(sum[c][1])} << 8 |
                          uint32_t{RoundWeighted(sum[c][2])} << 16 |
                          uint32_t{RoundWeighted(sum[c][3])} << 24);
      } else {
        for (int32_t k = 0; k < 4 && x + k < width_; ++k) to[k] = RoundWeighted(sum[c][k]);
      }
    }
  });
}

template <typename Block>
template <typename Sink>
DR_BLOCK void BlockReplay<Block>::VerticalFirst(const Job& job, const Passes& passes, const AxisTable& across,
                                                const AxisTable& down, uint8_t* band, Sink put) {
  const int64_t row_bytes = BandRowBytes(passes, job.width, batch_.out);
  const int32_t step = int32_t(batch_.layout.band_bytes / row_bytes);
  for (int32_t y = 0; y < height_; y += step) {
    const int32_t end = y + step < height_ ? y + step : height_;
    VerticalOfImage(job, down, y, end,
                    [&](int32_t row, int32_t byte, uint8_t v) { band[row * row_bytes + byte] = v; });
    block_.Sync();
    Horizontal(band, row_bytes, end - y, across,
               [&](int32_t row, int32_t x, uint8_t r, uint8_t g, uint8_t b) { put(y + row, x, r, g, b); });
    block_.Sync();
  }
}

template <typename Block>
DR_BLOCK void BlockReplay<Block>::HorizontalFirst(const Job& job, const Passes& passes,
                                                  const AxisTable& across, const AxisTable& down,
                                                  uint8_t* band) {
  const uint8_t* const crop = InGlobal(job.crop);
  const int64_t pitch = job.pitch;
  const int32_t flip = job.flip;

  // The band is a ring of horizontally resized rows, planar and flipped already.
  const int32_t row_bytes = int32_t(BandRowBytes(passes, job.width, batch_.out)), plane_row = row_bytes / 3;
  const int32_t ring_rows = batch_.layout.band_bytes / row_bytes;
  int32_t done = 0;
  for (int32_t y = 0; y < height_;) {
    const int32_t first = down.range[y].begin;
    int32_t end = y + 1, most = height_;  // the rows whose windows the ring holds together
    while (end < most) {
      const int32_t middle = (end + most + 1) / 2;
      if (down.End(middle - 1) - first <= ring_rows) {
        end = middle;
      } else {
        most = middle - 1;
      }
    }
    const int32_t from = done > first ? done : first, slot = from % ring_rows;
    done = down.End(end - 1);
    Horizontal(crop + from * pitch, pitch, done - from, across,
               [&](int32_t row, int32_t x, uint8_t r, uint8_t g, uint8_t b) {
                 const int32_t at = slot + row < ring_rows ? slot + row : slot + row - ring_rows;
                 uint8_t* to = band + at * row_bytes + (flip ? width_ - 1 - x : x);
                 to[0] = r;
                 to[plane_row] = g;
                 to[2 * plane_row] = b;
               });
    block_.Sync();
    VerticalOfRing(band, ring_rows, down, y, end);
    block_.Sync();
    y = end;
  }
}

template <typename Block>
DR_BLOCK void BlockReplay<Block>::CropResizeFlip(const Job& job) {
  const Passes passes = MakePasses(job.height, job.width, job.resized);
  const Axis columns = MakeAxis(job.width, job.resized.width, batch_.filter);
  const Axis rows = MakeAxis(job.height, job.resized.height, batch_.filter);
  const AxisTable across = MakeTable(columns, width_, taps_);
  const AxisTable down =
      MakeTable(rows, height_, passes.horizontal ? taps_ + AxisTableBytes(columns, width_) : taps_);
  if (passes.horizontal) FillTable(columns, job.window_left, width_, across);
  if (passes.vertical) FillTable(rows, job.window_top, height_, down);
  block_.Sync();
  const uint8_t* const crop = InGlobal(job.crop);
  const int64_t pitch = job.pitch;
  const int32_t flip = job.flip;
  uint8_t* const band = pixels_ + plane_[3];
  const auto put = [&](int32_t y, int32_t x, uint8_t r, uint8_t g, uint8_t b) { Put(y, x, flip, r, g, b); };

  if (!passes.vertical) {
    if (passes.horizontal) {
      Horizontal(crop, pitch, height_, across, put);
    } else {
      block_.ForEach(count_, [&](int32_t i) {
        int32_t x;
        const int32_t y = batch_.out.columns.Divide(i, &x);
        const uint8_t* from = crop + y * pitch + 3 * x;
        put(y, x, from[0], from[1], from[2]);
      });
    }
  } else if (!passes.horizontal) {
    VerticalOfImage(job, down, 0, height_, [&](int32_t y, int32_t byte, uint8_t v) {
      const int32_t x = byte / 3;
      pixels_[plane(byte % 3) + y * width_ + (flip ? width_ - 1 - x : x)] = v;
    });
  } else if (passes.vertical_first) {
    VerticalFirst(job, passes, across, down, band, put);
  } else {
    HorizontalFirst(job, passes, across, down, band);
    return;
  }
  block_.Sync();
}

}  // namespace dali_dr::image

#endif  // DALI_DR_CSRC_IMAGE_BLOCK_RESIZE_H_
