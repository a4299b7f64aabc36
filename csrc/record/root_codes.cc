// See root_codes.h.
#include "record/root_codes.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "record/pairwise.h"
#include "record/root_probabilities.h"

namespace dali_dr::record {
namespace {

constexpr size_t kLanes = 64;  // rows at a time: their roots stay in the fastest cache
constexpr double kMaxRootCode = 255, kZeroCodeRoot = 0.3, kLeastRoot = 1e-9;
constexpr double kNear = 1e-6;  // what rounds to the same float32 is closer, relatively

/// To the nearest integer, of equally near ones the even one: 0 <= value < 2^51.
double Round(double value) {
  constexpr double kShift = 0x1.8p52;
  return value + kShift - kShift;
}

double Code(double root) {
  const double code = Round(root);
  return code < kMaxRootCode ? code : kMaxRootCode;
}

/// Whether a root at the scale of codes is that of one, up to what float32 rounds; most that are not are told
/// from the second class alone.
bool MayBeCode(double root) {
  constexpr double kRounding = 1e-4;  // 255 * 2^-23, and more
  const double away = std::abs(root - Round(root)), from_zero = std::abs(root - kZeroCodeRoot);
  return (root > kRounding) & ((away < kRounding) | (from_zero < kRounding) | (root > kMaxRootCode));
}

/// The weight of a code in squared steps.
double Square(double code) { return code * code + (code == 0 ? kZeroCodeRoot * kZeroCodeRoot : 0); }

class Coder {
 public:
  Coder(uint32_t topk, float step)
      : topk_(topk),
        second_(topk > 1 ? kLanes : 0),
        step_(step),
        weights_(RootWeights::For(step)),
        roots_((topk + 1) * kLanes),
        values_(topk * kLanes),
        codes_((topk + 1) * kLanes),
        tried_(topk + 1) {}

  /// `count` <= kLanes rows. Returns whether `recode`, and codes of every row were found.
  bool Rows(const float* probs, size_t count, bool recode) {
    probs_ = probs;
    TakeRoots(count);
    for (size_t i = 0; i < roots_.size(); ++i) codes_[i] = static_cast<uint8_t>(Code(roots_[i]));
    std::fill_n(found_, kLanes, false);
    bool all = recode;
    if (recode)
      for (size_t lane = 0; lane < count; ++lane) all &= found_[lane] = Recode(lane);
    // What was read from a record is stored as it was: the scale to a sum of 1 is undone where that gives it
    // exactly. Of several, the last shift in rising order counts.
    for (const double shift : {2.0, 1.0, 0.0, -1.0, -2.0}) TryShift(shift, count);
    return all;
  }

  /// The code of the rest (0) or of a rank (1 ...), as a row's Rows() found it.
  const uint8_t* codes(uint32_t column) const { return &codes_[column * kLanes]; }

 private:
  void TakeRoots(size_t count) {
    for (size_t lane = 0; lane < kLanes; ++lane) {
      const float* row = probs_ + topk_ * std::min(lane, count - 1);
      for (uint32_t k = 0; k < topk_; ++k) values_[k * kLanes + lane] = row[k];
    }
    double sums[kLanes];
    PairwiseSums<kLanes>(values_.data(), topk_, sums);
    for (size_t i = 0; i < kLanes; ++i) {
      const double rest = 1 - sums[i];
      roots_[i] = std::sqrt(rest > 0 ? rest : 0.0) / step_;
    }
    for (size_t i = 0; i < values_.size(); ++i) roots_[kLanes + i] = std::sqrt(values_[i]) / step_;
  }

  /// Where the most likely class has the code that is its root's nearest and `shift` more, are the others'
  /// codes those of the very probabilities?
  void TryShift(double shift, size_t count) {
    double scale[kLanes];
    bool may[kLanes];
    const double* roots = &roots_[kLanes];
    for (size_t i = 0; i < kLanes; ++i) {
      const double code = Round(roots[i]) + shift;
      scale[i] =
          (code > kZeroCodeRoot ? code : kZeroCodeRoot) / (roots[i] > kLeastRoot ? roots[i] : kLeastRoot);
    }
    for (size_t i = 0; i < kLanes; ++i)  // a first code that is cut off may go with anything
      may[i] = (topk_ == 1) | MayBeCode(roots[second_ + i] * scale[i]) |
               (roots[i] * scale[i] > kMaxRootCode + 0.5);
    for (size_t lane = 0; lane < count; ++lane) {
      if (!may[lane] || found_[lane]) continue;
      for (uint32_t column = 0; column <= topk_; ++column)
        tried_[column] = static_cast<uint8_t>(Code(roots_[column * kLanes + lane] * scale[lane]));
      if ((found_[lane] = Same(lane))) Keep(lane);
    }
  }

  /// Whether reading `tried_` gives the row's probabilities.
  bool Same(size_t lane) const {
    double total = weights_.code[tried_[0]];
    for (uint32_t k = 1; k <= topk_; ++k) total += weights_.code[tried_[k]];
    const float* row = probs_ + topk_ * lane;
    for (uint32_t k = 0; k < topk_; ++k)
      if (static_cast<float>(weights_.code[tried_[k + 1]] / total) != row[k]) return false;
    return true;
  }

  void Keep(size_t lane) {
    for (uint32_t column = 0; column <= topk_; ++column) codes_[column * kLanes + lane] = tried_[column];
  }

  /// Looks for codes whose reading gives the row's probabilities, whatever their rest, and keeps those whose
  /// sum is closest to 1. The first code and its probability give the sum, that the others' codes, and all of
  /// them the rest's.
  bool Recode(size_t lane) {
    const double root = roots_[kLanes + lane], p = values_[lane];
    if (!(p > 0)) return false;  // no code gives 0
    constexpr int kAround = 4, kRestAround = 2;
    double best = std::numeric_limits<double>::infinity();
    const int nearest = static_cast<int>(Round(root)), most = static_cast<int>(kMaxRootCode);
    for (int code = std::max(nearest - kAround, 0); code <= std::min(nearest + kAround, most); ++code) {
      const double scale = (code ? code : kZeroCodeRoot) / std::max(root, kLeastRoot);
      if (topk_ > 1 && !MayBeCode(roots_[2 * kLanes + lane] * scale)) continue;
      double ranks = 0;
      for (uint32_t k = 1; k <= topk_; ++k) {
        const double other = Code(roots_[k * kLanes + lane] * scale);
        tried_[k] = static_cast<uint8_t>(other);
        ranks += Square(other);
      }
      const double sum = Square(code) / p, rest = sum - ranks;
      if (rest > Square(kMaxRootCode + 1)) continue;
      const int about = static_cast<int>(Round(std::sqrt(std::max(rest, 0.0))));
      const double away = std::abs(sum * step_ * step_ - 1);
      for (int r = std::max(about - kRestAround, 0); r <= std::min(about + kRestAround, most); ++r) {
        if (std::abs(sum - (ranks + Square(r))) > kNear * sum || !(away < best)) continue;
        tried_[0] = static_cast<uint8_t>(r);
        if (!Same(lane)) continue;
        best = away;
        Keep(lane);
      }
    }
    return std::isfinite(best);
  }

  const uint32_t topk_;
  const size_t second_;  // from a rank's roots to those of the second, if there is one
  const double step_;
  const RootWeights& weights_;
  const float* probs_ = nullptr;
  // Columns of kLanes rows: of the rest first, then of the ranks; values_ of ranks only.
  std::vector<double> roots_, values_;
  std::vector<uint8_t> codes_;
  std::vector<uint8_t> tried_;  // of one row
  bool found_[kLanes];          // codes that give the row's probabilities
};

}  // namespace

bool RootCodes(std::span<const float> probs, uint32_t topk, float step, bool recode, uint8_t* codes) {
  const size_t rows = probs.size() / topk;
  Coder coder(topk, step);
  bool all = recode;
  for (size_t first = 0; first < rows; first += kLanes) {
    const size_t count = std::min(rows - first, kLanes);
    all &= coder.Rows(probs.data() + first * topk, count, recode);
    for (uint32_t column = 0; column <= topk; ++column) {
      const uint8_t* from = coder.codes(column);
      uint8_t* to = codes + column * rows + first;
      if (column < 2)
        std::copy_n(from, count, to);
      else  // the fall from the rank before
        for (size_t i = 0; i < count; ++i) to[i] = static_cast<uint8_t>(coder.codes(column - 1)[i] - from[i]);
    }
  }
  return all;
}

}  // namespace dali_dr::record
