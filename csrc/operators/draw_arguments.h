// The arguments draw_... of fn.dr.read: what fresh views are drawn from, one DALI argument per parameter.
#ifndef DALI_DR_CSRC_OPERATORS_DRAW_ARGUMENTS_H_
#define DALI_DR_CSRC_OPERATORS_DRAW_ARGUMENTS_H_

#include <optional>

#include "dali/pipeline/operator/op_spec.h"
#include "draw/draw.h"

namespace dali_dr {

inline constexpr char kDrawArguments[] = "dr__DrawArguments";  // the schema that has them

/// The spec that the arguments make, or none where none is given. Throws draw::SpecError.
std::optional<draw::Spec> DrawSpec(const dali::OpSpec& spec);

}  // namespace dali_dr

#endif  // DALI_DR_CSRC_OPERATORS_DRAW_ARGUMENTS_H_
