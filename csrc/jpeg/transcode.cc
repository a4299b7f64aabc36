// See transcode.h. libjpeg leaves by longjmp on its first error or warning: no object with a destructor lives
// in a function that calls it.
#include "jpeg/transcode.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "jpeg/fit.h"
#include "jpeg/library.h"

// clang-format off
#include <jerror.h>  // needs jpeglib.h from above
// clang-format on

namespace dali_dr::jpeg {
namespace {

struct Stops : Errors {
  Stops() {
    error_exit = Leave;
    emit_message = [](j_common_ptr codec, int level) {
      if (level < 0) Leave(codec);
    };
  }

  [[noreturn]] static void Leave(j_common_ptr codec) {
    auto* self = static_cast<Stops*>(codec->err);
    if (self->msg_code == JERR_OUT_OF_MEMORY) self->reason = "there is not enough memory for it";
    std::longjmp(self->back, 1);
  }

  const char* reason = nullptr;  // what an error means at this step
};

[[noreturn]] void Stop(j_common_ptr codec, const char* reason) {
  static_cast<Stops*>(codec->err)->reason = reason;
  codec->err->msg_code = 0;
  Stops::Leave(codec);
}

template <typename Codec>
j_common_ptr Common(Codec* codec) {
  return reinterpret_cast<j_common_ptr>(codec);
}

/// Writes into memory of a given size. What does not fit is not wanted.
struct Destination : jpeg_destination_mgr {
  explicit Destination(std::span<uint8_t> memory)
      : jpeg_destination_mgr{nullptr, 0, Begin, Full, [](j_compress_ptr) {}}, out(memory) {}
  std::span<uint8_t> out;

  static void Begin(j_compress_ptr codec) {
    auto* self = static_cast<Destination*>(codec->dest);
    self->next_output_byte = self->out.data();
    self->free_in_buffer = self->out.size();
  }
  static boolean Full(j_compress_ptr codec) { Stop(Common(codec), "it would grow by more than 8 %"); }

  void Copy(j_compress_ptr codec, std::span<const uint8_t> bytes) {
    if (bytes.size() >= free_in_buffer) Full(codec);
    std::memcpy(next_output_byte, bytes.data(), bytes.size());
    next_output_byte += bytes.size();
    free_in_buffer -= bytes.size();
  }
};

/// A decoder that keeps all coefficients, so that pixels come from what was read once.
struct Reader {
  jpeg_decompress_struct codec;
  jvirt_barray_ptr* coefficients;
  JSAMPROW row;

  // Up to the first scan.
  void Open(std::span<const uint8_t> file) {
    jpeg_create_decompress(&codec);
    jpeg_mem_src(&codec, file.data(), file.size());
    jpeg_read_header(&codec, TRUE);
    const auto space = codec.num_components == 1 ? JCS_GRAYSCALE : JCS_YCbCr;
    if (codec.jpeg_color_space != space) Stop(Common(&codec), "its colours are not YCbCr");
    codec.out_color_space = JCS_RGB;  // as decode.h
    codec.buffered_image = TRUE;
    jpeg_start_decompress(&codec);
    coefficients = jpeg_read_coefficients(&codec);  // which are still to come
  }

  // All scans that have not been read, and whether something was missing.
  void ReadToEnd() {
    while (jpeg_consume_input(&codec) != JPEG_REACHED_EOI) {
    }
    for (int c = 0; c < codec.num_components; ++c) {
      if (codec.comp_info[c].quant_table == nullptr) Stop(Common(&codec), "not all of it is there");
      // A decoder smooths over what is not known, and otherwise at the edges of a region (images/jpeg.py).
      for (int k = 0; codec.coef_bits != nullptr && k < DCTSIZE2; ++k)
        if (codec.coef_bits[c][k] != 0) Stop(Common(&codec), "not all of it is there");
    }
  }

  JBLOCKARRAY Blocks(int component, JDIMENSION first, int rows) {
    return codec.mem->access_virt_barray(Common(&codec), coefficients[component], first,
                                         static_cast<JDIMENSION>(rows), FALSE);
  }

  void BeginPixels() {
    jpeg_start_output(&codec, codec.input_scan_number);
    const JDIMENSION samples = codec.output_width * static_cast<JDIMENSION>(codec.output_components);
    row = codec.mem->alloc_sarray(Common(&codec), JPOOL_IMAGE, samples, 1)[0];
  }

  void NextRow() {
    if (jpeg_read_scanlines(&codec, &row, 1) != 1) Stops::Leave(Common(&codec));
  }
};

class Work {
 public:
  explicit Work(const Transcoding& task) : task_(task), destination_(task.out) {
    original_.codec.err = tiled_.codec.err = writer_.err = &errors_;
  }
  ~Work() {
    jpeg_destroy(Common(&original_.codec));
    jpeg_destroy(Common(&tiled_.codec));
    jpeg_destroy(Common(&writer_));
  }
  Work(const Work&) = delete;
  Work& operator=(const Work&) = delete;

  const char* Run(size_t* size) {
    if (setjmp(errors_.back)) return errors_.reason;
    const double begun = TileSteps::Now();
    errors_.reason = "it is damaged: libjpeg warns or stops";
    original_.Open(task_.original);
    original_.ReadToEnd();
    const double read = TileSteps::Now();
    errors_.reason = "baseline cannot hold it";
    *size = Write();
    const double written = TileSteps::Now();
    errors_.reason = "tiled, it would be another image";
    tiled_.Open(task_.out.first(*size));
    Compare();
    *task_.steps = {read - begun, written - read, TileSteps::Now() - written, 0};
    return nullptr;
  }

 private:
  size_t Write() {
    jpeg_create_compress(&writer_);
    writer_.dest = &destination_;
    jpeg_copy_critical_parameters(&original_.codec, &writer_);
    writer_.arith_code = FALSE;
    writer_.restart_interval = static_cast<unsigned>(task_.restart_interval);
    writer_.restart_in_rows = 0;
    FitTables();
    writer_.write_JFIF_header = FALSE;  // the original's own follow, if it has any
    writer_.write_Adobe_marker = FALSE;
    jpeg_write_coefficients(&writer_, original_.coefficients);  // SOI
    for (const auto& segment : task_.metadata) destination_.Copy(&writer_, segment);
    jpeg_finish_compress(&writer_);
    return task_.out.size() - destination_.free_in_buffer;
  }

  // The writer's Huffman tables become those that fit the coefficients best.
  void FitTables() {
    BlockSymbols symbols[2];
    for (int row = 0; row < McuRows(); ++row)
      for (int c = 0; c < writer_.num_components; ++c) Count(c, row, &symbols[TableOf(c)]);
    for (int t = 0; t < std::min(2, writer_.num_components); ++t) {
      if (!symbols[t].fit()) Stop(Common(&writer_), errors_.reason);
      Set(symbols[t].dc(), &writer_.dc_huff_tbl_ptrs[t]);
      Set(symbols[t].ac(), &writer_.ac_huff_tbl_ptrs[t]);
    }
  }

  // Of a component: one table for brightness, one for both colours, as jpeg_set_colorspace has them.
  int TableOf(int c) const { return writer_.comp_info[c].dc_tbl_no; }

  void Set(const SymbolCounts& symbols, JHUFF_TBL** place) {
    if (*place == nullptr) *place = jpeg_alloc_huff_table(Common(&writer_));
    const Codes table = symbols.Optimal();
    std::copy(table.counts.begin(), table.counts.end(), (*place)->bits);
    std::copy(table.symbols.begin(), table.symbols.end(), (*place)->huffval);
    (*place)->sent_table = FALSE;
  }

  int McuRows() const {
    const auto& codec = original_.codec;
    const int height = codec.num_components == 1 ? DCTSIZE : DCTSIZE * codec.max_v_samp_factor;
    return (static_cast<int>(codec.image_height) + height - 1) / height;
  }

  // The symbols of a component in a row of MCUs, as a scan of all components has them.
  void Count(int c, int mcu_row, BlockSymbols* symbols) {
    const auto& component = original_.codec.comp_info[c];
    const bool alone = original_.codec.num_components == 1;  // then an MCU is a block
    const int across = alone ? 1 : component.h_samp_factor, down = alone ? 1 : component.v_samp_factor;
    const int width = static_cast<int>(component.width_in_blocks);
    const int first = mcu_row * down;
    const int rows = std::min(down, static_cast<int>(component.height_in_blocks) - first);
    const JBLOCKARRAY blocks = original_.Blocks(c, static_cast<JDIMENSION>(first), rows);
    int previous = 0;
    for (int left = 0, mcu = 0; left < width; left += across, ++mcu) {
      if (mcu % task_.restart_interval == 0) previous = 0;
      const int columns = std::min(across, width - left);
      for (int y = 0; y < rows; ++y) {
        for (int x = left; x < left + columns; ++x) {
          symbols->Add(blocks[y][x], previous);
          previous = blocks[y][x][0];
        }
      }
      symbols->AddEmpty(static_cast<uint32_t>(across * down - columns * rows));
    }
  }

  void Differs() { Stops::Leave(Common(&tiled_.codec)); }

  // Rows of blocks as they are read, which libjpeg does as far as pixels are asked for; and rows of pixels.
  void Compare() {
    CompareHeaders();
    original_.BeginPixels();
    tiled_.BeginPixels();
    const auto& image = original_.codec;
    if (image.output_width != tiled_.codec.output_width || image.output_height != tiled_.codec.output_height)
      Differs();
    JDIMENSION compared = 0;
    for (int y = 0; y < static_cast<int>(image.output_height); ++y) {
      tiled_.NextRow();
      while (compared < tiled_.codec.input_iMCU_row) CompareBlocks(compared++);
      original_.NextRow();
      if (std::memcmp(original_.row, tiled_.row, 3 * size_t{image.output_width})) Differs();
      for (const auto& [region, pixels] : task_.wanted) {
        if (y < region.top || y >= region.top + region.height) continue;
        const size_t stride = 3 * static_cast<size_t>(region.width);
        std::memcpy(pixels + static_cast<size_t>(y - region.top) * stride,
                    original_.row + 3 * static_cast<size_t>(region.left), stride);
      }
    }
    tiled_.ReadToEnd();
    if (compared != tiled_.codec.total_iMCU_rows || tiled_.codec.input_scan_number != 1) Differs();
  }

  void CompareHeaders() {
    const auto &a = original_.codec, &b = tiled_.codec;
    if (a.image_width != b.image_width || a.image_height != b.image_height ||
        a.num_components != b.num_components || a.jpeg_color_space != b.jpeg_color_space)
      Differs();
    for (int c = 0; c < a.num_components; ++c) {
      const auto &mine = a.comp_info[c], &its = b.comp_info[c];
      if (mine.component_id != its.component_id || mine.h_samp_factor != its.h_samp_factor ||
          mine.v_samp_factor != its.v_samp_factor || mine.width_in_blocks != its.width_in_blocks ||
          mine.height_in_blocks != its.height_in_blocks || its.quant_table == nullptr ||
          std::memcmp(mine.quant_table->quantval, its.quant_table->quantval,
                      sizeof mine.quant_table->quantval))
        Differs();
    }
  }

  // Those that libjpeg reads at a time: of each component as many rows as its sampling factor says.
  void CompareBlocks(JDIMENSION row) {
    for (int c = 0; c < original_.codec.num_components; ++c) {
      const auto& component = original_.codec.comp_info[c];
      const auto down = static_cast<JDIMENSION>(component.v_samp_factor);
      const JDIMENSION end = std::min((row + 1) * down, component.height_in_blocks);
      for (JDIMENSION y = row * down; y < end; ++y) {
        const JBLOCK *left = original_.Blocks(c, y, 1)[0], *right = tiled_.Blocks(c, y, 1)[0];
        if (std::memcmp(left, right, component.width_in_blocks * sizeof(JBLOCK))) Differs();
      }
    }
  }

  const Transcoding& task_;
  Stops errors_;
  Reader original_{}, tiled_{};
  jpeg_compress_struct writer_{};
  Destination destination_;
};

}  // namespace

const char* Transcode(const Transcoding& transcoding, size_t* size) {
  // On the heap: what changes between setjmp and longjmp must be no variable of the function that calls
  // setjmp.
  const auto work = std::make_unique<Work>(transcoding);
  return work->Run(size);
}

}  // namespace dali_dr::jpeg
