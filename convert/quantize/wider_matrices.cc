#include "convert/quantize/wider_matrices.h"

#include <algorithm>
#include <numeric>

namespace t2r::convert {

std::vector<size_t> ChooseWider(std::span<const WideningCost> matrices, int64_t bytes) {
  std::vector<size_t> order(matrices.size());
  std::iota(order.begin(), order.end(), size_t{0});
  const auto worth = [&](size_t i) {
    return matrices[i].divergence / static_cast<double>(std::max<int64_t>(1, matrices[i].bytes));
  };
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return worth(a) > worth(b); });
  std::vector<size_t> chosen;
  for (const size_t i : order) {
    if (matrices[i].bytes > bytes || !(matrices[i].divergence > 0)) continue;
    bytes -= matrices[i].bytes;
    chosen.push_back(i);
  }
  return chosen;
}

}  // namespace t2r::convert
