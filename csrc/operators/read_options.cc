// See read_options.h.
#include "operators/read_options.h"

#include <memory>
#include <optional>
#include <string>

#include "operators/draw_arguments.h"
#include "operators/report.h"
#include "samples/patience.h"

namespace dali_dr {
namespace {

std::optional<labels::Order> LabelMaps(const dali::OpSpec& spec) {
  const auto order = spec.GetArgument<std::string>("label_maps");
  if (order.empty()) return std::nullopt;
  DALI_ENFORCE(order == "code" || order == "transposed",
               dali::make_string("`label_maps` is \"", order, "\": pass \"code\", \"transposed\" or \"\"."));
  return order == "code" ? labels::Order::kCode : labels::Order::kTransposed;
}

samples::Options ReadOptions(const dali::OpSpec& spec) {
  const int topk = spec.GetArgument<int>("topk");
  DALI_ENFORCE(topk >= 0, dali::make_string("`topk` is ", topk, ": pass a number of classes, or 0."));
  const int max_pixels = spec.GetArgument<int>("max_pixels");
  DALI_ENFORCE(max_pixels >= 0,
               dali::make_string("`max_pixels` is ", max_pixels, ": pass a number of pixels, or 0."));
  return {.views = spec.NumRegularInput() == 2,
          .mixing = spec.GetArgument<bool>("mixing"),
          .draw = DrawSpec(spec),
          .topk = static_cast<size_t>(topk),
          .max_pixels = static_cast<uint64_t>(max_pixels),
          .check_images = spec.GetArgument<bool>("check_images"),
          .label_maps = LabelMaps(spec)};
}

// The cache of partners that the arguments name, if they name one.
std::shared_ptr<samples::PartnerCache> Partners(const dali::OpSpec& spec, const std::string& data_set) {
  const int number = spec.GetArgument<int>("partner_cache");
  if (number < 0) return nullptr;
  const auto bytes = spec.GetArgument<int64_t>("partner_cache_bytes");
  DALI_ENFORCE(bytes >= 0,
               dali::make_string("`partner_cache_bytes` is ", bytes, ": pass a number of bytes."));
  DALI_ENFORCE(spec.GetArgument<bool>("mixing") && spec.GetArgument<bool>("foreign"),
               "`partner_cache` needs `mixing` and `foreign`: pixels are for fn.dr.decode and fn.dr.replay.");
  auto cache = samples::PartnerCache::Open(number, static_cast<size_t>(bytes), data_set);
  DALI_ENFORCE(cache, dali::make_string("`partner_cache` ", number,
                                        " holds images of another data set: pass another number."));
  return cache;
}

}  // namespace

double RetrySeconds(const dali::OpSpec& spec) {
  const float seconds = spec.GetArgument<float>("retry_s");
  DALI_ENFORCE(seconds >= 0 && seconds <= 86400,
               dali::make_string("`retry_s` is ", seconds, ": pass seconds, 0 to 86400."));
  return seconds;
}

samples::Source OpenSource(const dali::OpSpec& spec) {
  const auto path = spec.GetArgument<std::string>("index");
  const auto given = spec.GetArgument<int64_t>("index_checksum");
  const auto checksum = given < 0 ? std::nullopt : std::optional(static_cast<uint32_t>(given));
  const samples::Patience patience(RetrySeconds(spec));
  samples::Options options = ReadOptions(spec);
  options.partners = Partners(spec, dali::make_string(path, " ", given));
  std::optional<samples::Source> source;
  Reporting(Monitor::Get(spec.GetArgument<int>("monitor")), [&] {
    for (samples::Patience::Series series(patience); !source;) {
      try {
        source.emplace(shards::ShardSet::Open(path, checksum), options);
      } catch (const FaultError& error) {
        if (!patience.Has(error.fault()) || !series.Wait()) throw BatchError({.fault = error.fault()});
      }
    }
  });
  return *std::move(source);
}

}  // namespace dali_dr
