// What dali_dr/convert/native.py calls through ctypes: files of published sets in, records and the like out.
#include <cstring>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "pickle/container.h"
#include "pickle/json.h"
#include "published/fkd.h"
#include "published/label_map.h"
#include "published/ml_dr.h"
#include "record/write.h"

extern "C" {

struct DaliDrFile {
  const uint8_t* data;
  uint64_t size;
};

/// What was made of files, or why nothing was; belongs to whoever asked, until dali_dr_published_delete.
struct DaliDrPublished {
  const uint8_t* data;
  uint64_t size;
  const char* reason;   // empty: there is something
  uint32_t numbers[3];  // of a record: views and classes of each; of a label map: depth, height, width
};

/// native.py's _Record, field by field.
struct DaliDrRecordSettings {
  int64_t number;
  uint32_t height, width, view, crop, num_ops, num_classes, num_images;
  uint32_t form;                       // of FKD's labels
  uint32_t transform_count, encoding;  // record::Encoding
  uint32_t transforms[8];
  float log_step;
  uint32_t recode;
  const uint32_t* sizes;  // height and width of each image, or null
};
}

namespace {

using namespace dali_dr;
using Bytes = std::span<const uint8_t>;

struct Held : DaliDrPublished {
  std::vector<uint8_t> bytes;
  std::string why;
};

/// Calls `make` with what is to be filled. nullptr where there is no memory.
template <typename Make>
DaliDrPublished* Filled(const Make& make) {
  try {
    auto held = std::make_unique<Held>();
    std::memset(held->numbers, 0, sizeof held->numbers);
    try {
      make(held.get());
    } catch (const std::bad_alloc&) {
      throw;
    } catch (const std::exception& error) {
      held->why = error.what();
      if (held->why.empty()) held->why = "it cannot be read";
    }
    held->data = held->bytes.data();
    held->size = held->bytes.size();
    held->reason = held->why.c_str();
    return held.release();
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

/// The tree of a file; of each thread the last, whose memory the next one is read into.
const pickle::Tree& Read(Bytes file) {
  thread_local pickle::Reader reader;
  thread_local pickle::Tree tree;
  pickle::ReadFile(file, &reader, &tree);
  return tree;
}

void WriteRecord(const record::Reinforcements& views, const DaliDrRecordSettings& settings, Held* held) {
  held->bytes = record::Write(views, {.image_height = settings.height,
                                      .image_width = settings.width,
                                      .view_height = settings.view,
                                      .view_width = settings.view,
                                      .encoding = static_cast<record::Encoding>(settings.encoding),
                                      .log_step = settings.log_step,
                                      .num_outputs = settings.num_classes,
                                      .recode = settings.recode != 0});
  held->numbers[0] = static_cast<uint32_t>(views.size());
  held->numbers[1] = static_cast<uint32_t>(views.topk);
}

template <typename T>
void AppendBytes(const std::vector<T>& numbers, std::vector<uint8_t>* bytes) {
  const auto* first = reinterpret_cast<const uint8_t*>(numbers.data());
  bytes->insert(bytes->end(), first, first + numbers.size() * sizeof(T));
}

}  // namespace

extern "C" {

// The views of all files, one after another, as one record.
__attribute__((visibility("default"))) DaliDrPublished* dali_dr_ml_dr_new(
    const DaliDrFile* files, uint32_t count, const DaliDrRecordSettings* settings) {
  return Filled([&](Held* held) {
    published::MlDrSettings of;
    for (uint32_t i = 0; i < settings->transform_count && i < published::kTransforms; ++i)
      of.transforms.push_back(static_cast<published::Transform>(settings->transforms[i]));
    of.view = settings->view;
    of.crop = settings->crop;
    of.num_ops = settings->num_ops;
    of.num_classes = settings->num_classes;
    of.num_images = settings->num_images;
    of.number = settings->number;
    of.image = {settings->height, settings->width};
    static_assert(sizeof(published::Size) == 2 * sizeof(uint32_t));
    if (settings->sizes)
      of.sizes = {reinterpret_cast<const published::Size*>(settings->sizes), settings->num_images};
    published::CheckSettings(of);
    record::Reinforcements views;
    for (uint32_t i = 0; i < count; ++i)
      published::AppendMlDr(Read({files[i].data, files[i].size}), of, &views);
    WriteRecord(views, *settings, held);
  });
}

__attribute__((visibility("default"))) DaliDrPublished* dali_dr_fkd_new(
    const DaliDrFile* file, const DaliDrRecordSettings* settings) {
  return Filled([&](Held* held) {
    if (settings->form >= published::kLabelForms) published::Fail("there is no such form of labels");
    const published::FkdSettings of{settings->num_classes,
                                    static_cast<published::LabelForm>(settings->form),
                                    {settings->height, settings->width}};
    WriteRecord(published::ReadFkd(Read({file->data, file->size}), of), *settings, held);
  });
}

// Scores, then class ids.
__attribute__((visibility("default"))) DaliDrPublished* dali_dr_label_map_new(const DaliDrFile* file) {
  return Filled([&](Held* held) {
    const published::LabelMap map = published::ReadLabelMap(Read({file->data, file->size}));
    AppendBytes(map.scores, &held->bytes);
    AppendBytes(map.ids, &held->bytes);
    held->numbers[0] = map.depth, held->numbers[1] = map.height, held->numbers[2] = map.width;
  });
}

__attribute__((visibility("default"))) DaliDrPublished* dali_dr_pickle_json_new(const DaliDrFile* file) {
  return Filled([&](Held* held) {
    const std::string text = pickle::Json(Read({file->data, file->size}));
    held->bytes.assign(text.begin(), text.end());
  });
}

__attribute__((visibility("default"))) void dali_dr_published_delete(DaliDrPublished* made) {
  delete static_cast<Held*>(made);
}
}
