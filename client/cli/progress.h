// A progress bar on a terminal, nothing elsewhere.
#ifndef T2R_CLIENT_CLI_PROGRESS_H_
#define T2R_CLIENT_CLI_PROGRESS_H_

#include <ostream>
#include <string>

namespace t2r::client {

class Progress {
 public:
  Progress(std::ostream& err, bool is_terminal) : err_(err), is_terminal_(is_terminal) {}
  ~Progress() { Clear(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // Redraws the line: label, bar, percent, note. fraction is clamped to [0, 1].
  void Update(const std::string& label, double fraction, const std::string& note);
  void Clear();

 private:
  std::ostream& err_;
  const bool is_terminal_;
  bool drawn_ = false;
};

}  // namespace t2r::client

#endif  // T2R_CLIENT_CLI_PROGRESS_H_
