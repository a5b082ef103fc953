#include "flags/help.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

namespace t2r::flags {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

struct Values {
  int64_t count = 4096;
  int layers = 3;
  double share = 0.25;
  double seconds = 60;
  uint64_t seed = 1;
  std::string kind = "auto";
  std::string file;
  std::vector<int> sizes = {1, 8};
};

// The options of a program, and of its subcommand, which inherits how they look.
struct Program {
  Program() {
    Describe(&app);
    app.add_option("--count", values.count, "How many")->check(AtLeast(1));
    app.add_option("--share", values.share, "Of all")->check(Range(0.0, 1.0));
    OneOf(app.add_option("--kind", values.kind, "Which"), {"auto", "cpu"});
    app.add_option("--file", values.file, "What to read")->type_name("FILE")->required();
    CLI::App* sub = app.add_subcommand("sub", "");
    sub->add_option("--layers", values.layers, "Of the model")->check(Range(1, 100000));
    CLI::Option* seed =
        sub->add_option("--seed", values.seed, "Of the draw")->check(AtLeast(uint64_t{0}));
    sub->add_option("--seconds", values.seconds)->type_name("SECONDS")->check(AtLeast(0.5));
    sub->add_option("--sizes", values.sizes, "A row each")
        ->delimiter(',')
        ->type_name("N,N,...")
        ->check(Range(1, 100))
        ->needs(seed);
    command = sub;
  }
  // "" or what is wrong.
  std::string Parse(std::vector<std::string> arguments) {
    std::reverse(arguments.begin(), arguments.end());
    try {
      app.parse(arguments);
    } catch (const CLI::ParseError& error) {
      return error.what();
    }
    return "";
  }

  Values values;
  CLI::App app{"A program.", "program"};
  const CLI::App* command = nullptr;
};

TEST(HelpTest, ShowsTypesRangesAndDefaults) {
  const std::string help = Program().app.help();
  EXPECT_THAT(help, HasSubstr("--count N "));
  EXPECT_THAT(help, HasSubstr("How many [at least 1; default 4,096]\n"));
  EXPECT_THAT(help, HasSubstr("--share X "));
  EXPECT_THAT(help, HasSubstr("Of all [0 to 1; default 0.25]\n"));
  EXPECT_THAT(help, HasSubstr("--kind auto|cpu "));
  EXPECT_THAT(help, HasSubstr("Which [default auto]\n"));
  EXPECT_THAT(help, HasSubstr("--file FILE "));
  EXPECT_THAT(help, HasSubstr("What to read [required]\n"));
}

TEST(HelpTest, ASubcommandLooksTheSame) {
  const Program program;
  const std::string help = program.command->help();
  EXPECT_THAT(help, HasSubstr("--layers N "));
  EXPECT_THAT(help, HasSubstr("Of the model [1 to 100,000; default 3]\n"));
  EXPECT_THAT(help, HasSubstr("Of the draw [at least 0; default 1]\n"));
  EXPECT_THAT(help, HasSubstr("--seconds SECONDS "));
  EXPECT_THAT(help, HasSubstr("[at least 0.5; default 60]\n"));
  EXPECT_THAT(help, HasSubstr("--sizes N,N,... "));
  EXPECT_THAT(help, HasSubstr("A row each [1 to 100; default 1,8; needs --seed]\n"));
  for (const char* part : {"INT", "UINT", "FLOAT", " in ["}) {
    EXPECT_THAT(help, Not(HasSubstr(part)));
  }
}

TEST(HelpTest, TakesWhatIsWithinTheRange) {
  Program program;
  EXPECT_EQ(program.Parse({"--file", "f", "--count", "1", "--share", "1", "--kind", "cpu", "sub",
                           "--layers", "100000", "--seed", "2", "--sizes", "1,100"}),
            "");
  EXPECT_EQ(program.values.count, 1);
  EXPECT_EQ(program.values.layers, 100000);
  EXPECT_EQ(program.values.sizes, (std::vector<int>{1, 100}));
}

TEST(HelpTest, RefusesTheRestNamingFlagValueAndRange) {
  const auto error = [](const std::string& flag, const std::string& value) {
    return Program().Parse({"--file", "f", flag, value});
  };
  EXPECT_EQ(error("--count", "0"), "--count: '0' is not a number of at least 1");
  EXPECT_EQ(error("--count", "many"), "--count: 'many' is not a number of at least 1");
  EXPECT_THAT(error("--count", "9223372036854775807"), HasSubstr("--count"));
  EXPECT_EQ(error("--share", "1.5"), "--share: '1.5' is not a number from 0 to 1");
  EXPECT_EQ(error("--share", "nan"), "--share: 'nan' is not a number from 0 to 1");
  EXPECT_EQ(error("--kind", "gpu"), "--kind: 'gpu' is none of auto|cpu");
  EXPECT_THAT(Program().Parse({"--file", "f", "sub", "--layers", "100001"}),
              HasSubstr("'100001' is not a number from 1 to 100,000"));
}

TEST(HelpTest, GroupsDigits) {
  EXPECT_EQ(Grouped(0), "0");
  EXPECT_EQ(Grouped(999), "999");
  EXPECT_EQ(Grouped(1000), "1,000");
  EXPECT_EQ(Grouped(-1234567), "-1,234,567");
}

}  // namespace
}  // namespace t2r::flags
