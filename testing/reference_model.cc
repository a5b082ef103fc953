#include "testing/reference_model.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>

namespace t2r::testing {
namespace {

using Row = std::vector<double>;
using Rows = std::vector<Row>;

constexpr double kPi = 3.14159265358979323846;

class Reference {
 public:
  Reference(const ModelSpec& spec, const Tensors& weights) : spec_(spec), weights_(weights) {
    prefix_ = spec.prefix ? spec.root() : "";
  }

  Rows Run(const std::vector<int32_t>& ids) {
    Rows x;
    const std::string table = prefix_ + spec_.table();
    for (size_t t = 0; t < ids.size(); ++t) {
      Row row(spec_.hidden);
      for (int i = 0; i < spec_.hidden; ++i) {
        row[i] = At(table, ids[t] * spec_.hidden + i);
        if (spec_.gpt2) row[i] += At(prefix_ + "wpe.weight", t * spec_.hidden + i);
      }
      x.push_back(row);
    }
    for (int i = 0; i < spec_.layers; ++i) {
      const std::string name = prefix_ + spec_.layer_list() + std::to_string(i) + ".";
      const Rows before = x;
      Add(&x, AttentionBlock(name, i, x));
      Add(&x, FeedForward(name, spec_.neox && spec_.parallel ? before : x));
    }
    Rows logits;
    for (const Row& row : x) {
      const Row last = Norm(prefix_ + spec_.last_norm(), row);
      logits.push_back(Apply(spec_.tied ? table : spec_.head(), last, spec_.vocab, /*conv=*/false));
    }
    return logits;
  }

 private:
  double At(const std::string& name, size_t i) const { return weights_.at(name).values.at(i); }

  static void Add(Rows* x, const Rows& y) {
    for (size_t t = 0; t < x->size(); ++t) {
      for (size_t i = 0; i < (*x)[t].size(); ++i) (*x)[t][i] += y[t][i];
    }
  }

  // y = W x (W [n, |x|], or [|x|, n] when conv).
  Row Apply(const std::string& name, const Row& x, int n, bool conv) const {
    const std::vector<float>& w = weights_.at(name).values;
    Row y(n, 0.0);
    for (int o = 0; o < n; ++o) {
      for (size_t i = 0; i < x.size(); ++i)
        y[o] += w.at(conv ? i * n + o : o * x.size() + i) * x[i];
    }
    return y;
  }
  Row Affine(const std::string& name, const Row& x, int n) const {
    Row y = Apply(name + ".weight", x, n, spec_.gpt2);
    if (weights_.count(name + ".bias") > 0) {
      for (int o = 0; o < n; ++o) y[o] += At(name + ".bias", o);
    }
    return y;
  }

  Row Norm(const std::string& name, const Row& x) const {
    double mean = 0;
    double square = 0;
    for (const double v : x) mean += v / x.size();
    if (!spec_.layer_norms()) mean = 0;
    for (const double v : x) square += (v - mean) * (v - mean) / x.size();
    Row y(x.size());
    for (size_t i = 0; i < x.size(); ++i) {
      y[i] = (x[i] - mean) / std::sqrt(square + spec_.norm_eps) * At(name + ".weight", i);
      if (spec_.layer_norms()) y[i] += At(name + ".bias", i);
    }
    return y;
  }

  // Divides each head by its root mean square.
  void NormHeads(const std::string& weight, int heads, Row* x) const {
    const int d = spec_.head_dim;
    for (int h = 0; h < heads; ++h) {
      double squares = 0;
      for (int i = 0; i < d; ++i) squares += x->at(h * d + i) * x->at(h * d + i);
      const double rms = std::sqrt(squares / d + spec_.norm_eps);
      for (int i = 0; i < d; ++i) x->at(h * d + i) *= At(weight, i) / rms;
    }
  }

  // The first values of a head that turn.
  int turned() const { return static_cast<int>(spec_.head_dim * spec_.rotary); }

  // Of pair i, and what the turned values are multiplied by.
  std::pair<double, double> FrequencyAndScale(int i) const {
    const double dim = turned();
    double theta = spec_.theta;
    if (spec_.rope_type == "dynamic") {
      const double ratio = std::max(1.0, 1.0 * spec_.rope_length / spec_.positions);
      theta *= std::pow(4 * ratio - 3, dim / (dim - 2));
    }
    const double plain = 1.0 / std::pow(theta, 2.0 * i / dim);
    if (spec_.linear_factor > 0) return {plain / spec_.linear_factor, 1};
    if (spec_.llama3_factor > 0) {
      // low_freq_factor 1, high_freq_factor 4, original context 32: see ConfigOf.
      const double wavelength = 2 * kPi / plain;
      if (wavelength > 32.0 / 1.0) return {plain / spec_.llama3_factor, 1};
      if (wavelength < 32.0 / 4.0) return {plain, 1};
      const double smooth = (32.0 / wavelength - 1.0) / (4.0 - 1.0);
      return {(1 - smooth) * plain / spec_.llama3_factor + smooth * plain, 1};
    }
    const double original = spec_.positions / 4.0;
    if (spec_.rope_type == "yarn") {
      // The pairs, counted in halves of a dimension, that turn 32 times and once in that context.
      const auto pair = [&](double times) {
        return dim / 2 * std::log(original / (2 * kPi * times)) / std::log(theta);
      };
      const double from = std::max(0.0, std::floor(pair(32)));
      const double to = std::min(dim - 1, std::ceil(pair(1)));
      const double ramp = std::min(1.0, std::max(0.0, (i - from) / (to - from)));
      return {plain * (1 - ramp) + plain / 4 * ramp, 1 + std::log(4.0) / 10};
    }
    if (spec_.rope_type == "longrope") {
      const bool is_short = spec_.rope_length > 0 && spec_.rope_length <= original;
      return {plain / (is_short ? 1 + i / 8.0 : 2 + i / 2.0),
              std::sqrt(1 + std::log(4.0) / std::log(original))};
    }
    return {plain, 1};
  }

  // Rotates one head as complex numbers x[i] + i·x[i + n/2] over its first n values.
  void Rotate(double* head, size_t position) const {
    const int n = turned() / 2;
    for (int i = 0; i < n; ++i) {
      const auto [frequency, scale] = FrequencyAndScale(i);
      const double angle = frequency * static_cast<double>(position);
      const double a = head[i];
      const double b = head[i + n];
      head[i] = scale * (a * std::cos(angle) - b * std::sin(angle));
      head[i + n] = scale * (b * std::cos(angle) + a * std::sin(angle));
    }
  }

  static Row Softmax(const Row& x) {
    const double high = *std::max_element(x.begin(), x.end());
    double sum = 0;
    Row y(x.size());
    for (size_t i = 0; i < x.size(); ++i) sum += y[i] = std::exp(x[i] - high);
    for (double& v : y) v /= sum;
    return y;
  }

  // Σ_j w[first row + i][j] x_j for `rows` rows of d.
  Row Project(const std::string& name, int first, int rows, const Row& x) const {
    const std::vector<float>& w = weights_.at(name).values;
    Row u(rows, 0.0);
    for (int i = 0; i < rows; ++i) {
      for (size_t j = 0; j < x.size(); ++j) u[i] += w.at((first + i) * x.size() + j) * x[j];
    }
    return u;
  }

  // What a key leaves in the state of a layer with `features` features.
  Row KeyFeatures(const std::string& name, int group, const Row& x, int features) const {
    if (spec_.map == "none") return {};
    if (spec_.map != "codebook") return Features(name, group, x, 1.0, features);
    Row u = Project(name + "feature_map.key_weight", group * features, features, x);
    for (int i = 0; i < features; ++i)
      u[i] += At(name + "feature_map.key_bias", group * features + i);
    return Softmax(u);
  }

  Row Features(const std::string& name, int group, Row x, double scale, int features) const {
    for (double& v : x) v *= scale;
    const int d = spec_.head_dim;
    if (spec_.map == "elu") {
      for (double& v : x) v = v > 0 ? v + 1 : std::exp(v);
      return x;
    }
    if (spec_.map == "rfa") {
      double norm = 0;
      for (const double v : x) norm += v * v;
      norm = std::max(std::sqrt(norm), 1e-12);
      for (double& v : x) v /= norm;
    }
    const int rows = spec_.map == "t2r" ? features : features / 2;
    const std::string weight =
        name + "feature_map." + (spec_.map == "rfa" ? "projection" : "weight");
    const std::vector<float>& w = weights_.at(weight).values;
    Row u(rows, 0.0);
    for (int i = 0; i < rows; ++i) {
      for (int j = 0; j < d; ++j) u[i] += w.at((group * rows + i) * d + j) * x[j];
      if (spec_.map == "t2r") {
        u[i] = std::max(0.0, u[i] + At(name + "feature_map.bias", group * rows + i));
      }
    }
    if (spec_.map == "t2r") return u;
    Row phi;
    if (spec_.map == "rfa") {
      for (const double v : u) phi.push_back(std::sin(v) / std::sqrt(rows));
      for (const double v : u) phi.push_back(std::cos(v) / std::sqrt(rows));
      return phi;
    }
    phi = Softmax(u);
    for (double& v : u) v = -v;
    const Row negative = Softmax(u);
    phi.insert(phi.end(), negative.begin(), negative.end());
    return phi;
  }

  double LogDecay(const std::string& name, int group) const {
    return spec_.decay ? At(name + "feature_map.log_decay", group) : 0.0;
  }

  // Weights of keys 0 … t for head h, up to a common factor: the near ones of their logits, the
  // others of the features that stand for them. far_q: the head's query as the features see it.
  Row OneSoftmax(const std::string& name, int layer, int h, size_t t, const Row& q,
                 const Row& plain_q, const Row& far_q, const Rows& k,
                 const std::vector<Rows>& phi_k) const {
    const int d = spec_.head_dim;
    const int g = h / (spec_.heads / spec_.groups);
    const int w = spec_.windows(layer);
    const int c = spec_.folds(layer);
    const int m = spec_.map == "none" ? 0 : spec_.feature_count(layer);
    const int position = static_cast<int>(t);
    const int folded = w == 0 ? position + 1 : std::max(0, position - w + 1) / c * c;
    const int sinks = w == 0 ? 0 : spec_.sink_count(layer);
    Row weights(t + 1, 0.0);
    Row to_sinks(plain_q.begin() + h * d, plain_q.begin() + (h + 1) * d);
    if (!spec_.gpt2) {
      Rotate(to_sinks.data(), spec_.sink_position < 0
                                  ? t
                                  : std::min<size_t>(t, static_cast<size_t>(spec_.sink_position)));
    }
    Row logits(t + 1, -INFINITY);
    double high = -INFINITY;
    for (int j = 0; j <= position; ++j) {
      if (j >= sinks && j < folded) continue;
      const double* query = j < sinks ? to_sinks.data() : q.data() + h * d;
      logits[j] = 0;
      for (int i = 0; i < d; ++i) logits[j] += spec_.query_scale * query[i] * k[j][g * d + i];
      high = std::max(high, logits[j]);
    }
    Row phi;  // of the query, relative to e^high
    if (m > 0 && spec_.map == "codebook") {
      Row scaled = far_q;
      for (double& value : scaled) value *= spec_.query_scale;
      phi = Project(name + "feature_map.query_weight", g * m, m, scaled);
      for (int i = 0; i < m; ++i) phi[i] += At(name + "feature_map.query_bias", h * m + i);
      if (w == 0) high = *std::max_element(phi.begin(), phi.end());
      for (double& value : phi) value = std::exp(std::min(value - high, 40.0));
    } else if (m > 0) {
      phi = Features(name, g, far_q, spec_.query_scale, m);
      for (double& value : phi) value *= std::exp(At(name + "feature_map.far_bias", h) - high);
    }
    for (int j = 0; j <= position; ++j) {
      if (logits[j] > -INFINITY) {
        weights[j] = std::exp(logits[j] - high);
        continue;
      }
      double product = 0;
      for (int i = 0; i < m; ++i) product += phi[i] * phi_k[j][g][i];
      weights[j] = product * std::exp(LogDecay(name, g) * (folded - 1 - j));
    }
    return weights;
  }

  Rows AttentionBlock(const std::string& layer, int index, const Rows& x) const {
    const int d = spec_.head_dim;
    const int queries = spec_.heads * d;
    const int keys = spec_.groups * d;
    const std::string name = layer + spec_.attention();
    Rows q;
    Rows k;
    Rows v;
    Rows plain_q;  // before rotation
    Rows plain_k;
    for (size_t t = 0; t < x.size(); ++t) {
      const Row normed = Norm(layer + spec_.first_norm(), x[t]);
      if (spec_.gpt2) {
        const Row all = Affine(name + "c_attn", normed, 3 * queries);
        q.emplace_back(all.begin(), all.begin() + queries);
        k.emplace_back(all.begin() + queries, all.begin() + 2 * queries);
        v.emplace_back(all.begin() + 2 * queries, all.end());
        plain_q.push_back(q.back());
        plain_k.push_back(k.back());
        continue;
      }
      if (spec_.neox) {
        // A head's query, key and value side by side.
        const Row all = Affine(name + "query_key_value", normed, 3 * queries);
        for (Rows* rows : {&q, &k, &v}) rows->emplace_back();
        for (int i = 0; i < 3 * queries; ++i) {
          const int part = i / d % 3;
          (part == 0 ? q : part == 1 ? k : v).back().push_back(all[i]);
        }
      } else if (spec_.phi3) {
        const Row all = Affine(name + "qkv_proj", normed, queries + 2 * keys);
        q.emplace_back(all.begin(), all.begin() + queries);
        k.emplace_back(all.begin() + queries, all.end() - keys);
        v.emplace_back(all.end() - keys, all.end());
      } else {
        q.push_back(Affine(name + "q_proj", normed, queries));
        k.push_back(Affine(name + "k_proj", normed, keys));
        v.push_back(Affine(name + "v_proj", normed, keys));
      }
      if (spec_.qwen3) {
        NormHeads(name + "q_norm.weight", spec_.heads, &q[t]);
        NormHeads(name + "k_norm.weight", spec_.groups, &k[t]);
      }
      plain_q.push_back(q.back());
      plain_k.push_back(k.back());
      for (int h = 0; h < spec_.heads; ++h) Rotate(&q[t][h * d], t);
      for (int h = 0; h < spec_.groups; ++h) Rotate(&k[t][h * d], t);
    }
    const auto slice = [d](const Row& row, int i) {
      return Row(row.begin() + i * d, row.begin() + (i + 1) * d);
    };
    std::vector<Rows> phi_k(x.size());  // [position][group]
    for (size_t t = 0; spec_.is_linear(index) && t < x.size(); ++t) {
      for (int g = 0; g < spec_.groups; ++g) {
        phi_k[t].push_back(KeyFeatures(name, g, slice((spec_.rope_features ? k : plain_k)[t], g),
                                       spec_.feature_count(index)));
      }
    }
    Rows out;
    for (size_t t = 0; t < x.size(); ++t) {
      Row attn_out(queries, 0.0);
      for (int h = 0; h < spec_.heads; ++h) {
        const int g = h / (spec_.heads / spec_.groups);
        Row weights;
        double divisor = 1;
        const Row& seen = (spec_.rope_features ? q : plain_q)[t];
        if (spec_.is_linear(index) && (spec_.windows(index) > 0 || spec_.map == "codebook")) {
          weights = OneSoftmax(name, index, h, t, q[t], plain_q[t], slice(seen, h), k, phi_k);
          divisor = 0;
          for (const double weight : weights) divisor += weight;
        } else if (spec_.is_linear(index)) {
          const Row phi_q =
              Features(name, g, slice(seen, h), spec_.query_scale, spec_.feature_count(index));
          double sum = 0;
          for (size_t j = 0; j <= t; ++j) {
            double product = 0;
            for (size_t i = 0; i < phi_q.size(); ++i) product += phi_q[i] * phi_k[j][g][i];
            product *= std::exp(LogDecay(name, g) * static_cast<double>(t - j));
            weights.push_back(product);
            sum += product;
          }
          divisor = spec_.normalizer == "clamp" ? std::max(sum, spec_.eps) : sum + spec_.eps;
        } else {
          for (size_t j = 0; j <= t; ++j) {
            double product = 0;
            for (int i = 0; i < d; ++i) product += q[t][h * d + i] * k[j][g * d + i];
            weights.push_back(product / std::sqrt(d));
          }
          weights = Softmax(weights);
        }
        for (size_t j = 0; j <= t; ++j) {
          for (int i = 0; i < d; ++i) attn_out[h * d + i] += weights[j] / divisor * v[j][g * d + i];
        }
      }
      const char* const last = spec_.gpt2 ? "c_proj" : spec_.neox ? "dense" : "o_proj";
      out.push_back(Affine(name + last, attn_out, spec_.hidden));
    }
    return out;
  }

  double Activation(double v) const {
    const std::string& kind = spec_.activation;
    if (spec_.gpt2 || kind == "gelu_new") {
      return 0.5 * v * (1 + std::tanh(std::sqrt(2 / kPi) * (v + 0.044715 * v * v * v)));
    }
    if (kind == "gelu") return v * 0.5 * std::erfc(-v / std::sqrt(2.0));
    return kind == "relu" ? std::max(v, 0.0) : v / (1 + std::exp(-v));
  }

  Rows FeedForward(const std::string& layer, const Rows& x) const {
    Rows out;
    for (const Row& row : x) {
      const Row normed = Norm(layer + spec_.second_norm(), row);
      Row inner;
      const char* last = "mlp.down_proj";
      if (spec_.layer_norms()) {
        last = spec_.gpt2 ? "mlp.c_proj" : "mlp.dense_4h_to_h";
        inner =
            Affine(layer + (spec_.gpt2 ? "mlp.c_fc" : "mlp.dense_h_to_4h"), normed, spec_.inner);
        for (double& v : inner) v = Activation(v);
      } else {
        Row up;
        if (spec_.phi3) {
          inner = Affine(layer + "mlp.gate_up_proj", normed, 2 * spec_.inner);
          up.assign(inner.begin() + spec_.inner, inner.end());
          inner.resize(spec_.inner);
        } else {
          inner = Affine(layer + "mlp.gate_proj", normed, spec_.inner);
          up = Affine(layer + "mlp.up_proj", normed, spec_.inner);
        }
        for (int i = 0; i < spec_.inner; ++i) inner[i] *= up[i] / (1 + std::exp(-inner[i]));
      }
      out.push_back(Affine(layer + last, inner, spec_.hidden));
    }
    return out;
  }

  const ModelSpec& spec_;
  const Tensors& weights_;
  std::string prefix_;
};

}  // namespace

std::vector<std::vector<double>> ReferenceLogits(const ModelSpec& spec, const Tensors& weights,
                                                 const std::vector<int32_t>& ids) {
  return Reference(spec, weights).Run(ids);
}

std::vector<double> LogSoftmax(const std::vector<double>& logits) {
  const double high = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const double v : logits) sum += std::exp(v - high);
  std::vector<double> result;
  for (const double v : logits) result.push_back(v - high - std::log(sum));
  return result;
}

}  // namespace t2r::testing
