#include "convert/progress.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>

namespace t2r::convert {
namespace {

std::string ContentsOf(std::FILE* file) {
  std::rewind(file);
  std::string text;
  for (int c = 0; (c = std::fgetc(file)) != EOF;) text += static_cast<char>(c);
  return text;
}

TEST(FormatDuration, UsesHoursOnlyWhereNeeded) {
  EXPECT_EQ(FormatDuration(0), "00:00");
  EXPECT_EQ(FormatDuration(42.4), "00:42");
  EXPECT_EQ(FormatDuration(785), "13:05");
  EXPECT_EQ(FormatDuration(7384), "2:03:04");
  EXPECT_EQ(FormatDuration(-3), "00:00");
}

TEST(Progress, PrintsPlainLinesNowAndThenWhereThereIsNoTerminal) {
  std::FILE* file = std::tmpfile();
  ASSERT_NE(file, nullptr);
  Progress progress(file, 10);
  for (int step = 1; step <= 21; ++step) {
    progress.Update({step / 21.0, step, 1.5, 1234.4, 65.0});
  }
  progress.Line("done");
  const std::string text = ContentsOf(file);
  std::fclose(file);
  EXPECT_EQ(text,
            " 48%  step 10  loss 1.500000  1234 tokens/s  01:05 left\n"
            " 95%  step 20  loss 1.500000  1234 tokens/s  01:05 left\n"
            "100%  step 21  loss 1.500000  1234 tokens/s  01:05 left\n"
            "done\n");
}

TEST(Progress, ShowsOtherWorkAtEachTenth) {
  std::FILE* file = std::tmpfile();
  ASSERT_NE(file, nullptr);
  Progress progress(file, 1);
  for (int done = 1; done <= 30; ++done) progress.Show(done / 30.0, "work", 30.0 - done);
  const std::string text = ContentsOf(file);
  std::fclose(file);
  EXPECT_THAT(text, ::testing::StartsWith("  3%  work  00:29 left\n 10%  work  00:27 left\n"));
  EXPECT_THAT(text, ::testing::EndsWith(" 90%  work  00:03 left\n100%  work  00:00 left\n"));
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 11);
}

}  // namespace
}  // namespace t2r::convert
