#include "convert/calibrate/layer_costs.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <utility>

namespace t2r::convert {

std::vector<double> CostsAlone(const Divergence& divergence, TrainingModel* model,
                               Progress* progress) {
  const ModelConfig all = model->config();
  ModelConfig none = all;
  std::fill(none.layer_types.begin(), none.layer_types.end(), LayerType::kFullAttention);
  if (none.encoder_decoder.has_value()) {
    auto& cross = none.encoder_decoder->cross_layer_types;
    std::fill(cross.begin(), cross.end(), LayerType::kFullAttention);
  }
  std::vector<double> costs(static_cast<size_t>(all.layers), 0.0);
  LayerStart before;  // up to the layer every model is the parent
  for (int layer = 0; layer < all.layers; ++layer) {
    while (!all.encoder_decoder.has_value() && before.layer < layer) divergence.Advance(&before);
    if (!IsLinear(all, {layer, false})) continue;
    ModelConfig one = none;
    one.layer_types[static_cast<size_t>(layer)] = LayerType::kLinearAttention;
    model->SetLayerTypes(one);
    double& cost = costs[static_cast<size_t>(layer)];
    cost = divergence.Of(*model, before);
    const LinearSizes sizes = all.linear_attention->sizes(layer);
    char line[160];
    std::snprintf(line, sizeof(line), "layer %d alone, window %d, %d features: %.5f nats/token",
                  layer, sizes.window, sizes.features, cost);
    progress->Line(line);
  }
  model->SetLayerTypes(all);
  return costs;
}

std::vector<double> CostsByError(const std::vector<double>& errors,
                                 const std::map<size_t, double>& measured) {
  constexpr double kLeast = 1e-12;  // errors and costs below it are none
  struct Point {
    double error, unit;  // logarithms of the error and of cost / error
  };
  std::vector<Point> points;
  for (const auto& [size, cost] : measured) {
    const double error = std::max(kLeast, errors[size]);
    points.push_back({std::log(error), std::log(std::max(kLeast * kLeast, cost) / error)});
  }
  std::sort(points.begin(), points.end(),
            [](const Point& a, const Point& b) { return a.error < b.error; });
  std::vector<double> costs;
  for (size_t size = 0; size < errors.size(); ++size) {
    const auto known = measured.find(size);
    if (known != measured.end()) {
      costs.push_back(known->second);
      continue;
    }
    const double error = std::log(std::max(kLeast, errors[size]));
    const auto above = std::find_if(points.begin(), points.end(),
                                    [error](const Point& p) { return p.error >= error; });
    double unit = 0;
    if (above == points.begin()) {
      unit = points.front().unit;
    } else if (above == points.end()) {
      unit = points.back().unit;
    } else {
      const Point &low = *(above - 1), &high = *above;
      unit = low.unit + (high.unit - low.unit) * (error - low.error) / (high.error - low.error);
    }
    costs.push_back(std::exp(unit + error));
  }
  return costs;
}

std::vector<std::vector<double>> CostsBySize(const Divergence& divergence, size_t sizes,
                                             const std::vector<size_t>& measured,
                                             const std::function<SizedSwap(size_t)>& swapped,
                                             Progress* progress) {
  std::vector<std::vector<double>> errors;
  std::map<size_t, std::vector<double>> alone;
  for (size_t size = 0; size < sizes; ++size) {
    SizedSwap swap = swapped(size);
    if (std::find(measured.begin(), measured.end(), size) != measured.end()) {
      alone[size] = CostsAlone(divergence, &swap.model, progress);
    }
    errors.push_back(std::move(swap.errors));
  }
  const size_t layers = errors.at(0).size();
  std::vector<std::vector<double>> costs(sizes, std::vector<double>(layers, 0.0));
  for (size_t layer = 0; layer < layers; ++layer) {
    std::vector<double> own;
    for (const auto& of_size : errors) own.push_back(of_size[layer]);
    std::map<size_t, double> known;
    for (const auto& [size, of_size] : alone) known[size] = of_size[layer];
    const std::vector<double> all = CostsByError(own, known);
    for (size_t size = 0; size < sizes; ++size) costs[size][layer] = all[size];
  }
  return costs;
}

}  // namespace t2r::convert
