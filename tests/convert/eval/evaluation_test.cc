#include "convert/eval/evaluation.h"

#include <gtest/gtest.h>

namespace t2r::convert {
namespace {

TEST(Evaluation, SaysNatsAndPerplexity) {
  Evaluation evaluation;
  evaluation.nats = 150;
  evaluation.predictions = 100;
  evaluation.documents = 3;
  EXPECT_EQ(Describe(evaluation),
            "1.50000 nats/token, perplexity 4.4817 over 100 predicted tokens of 3 documents");
}

TEST(PositionLosses, AreMeansOverRangesThatDouble) {
  PositionLosses losses;
  losses.Add(0, 1.0);
  losses.Add(63, 2.0);
  losses.Add(64, 5.0);
  losses.Add(127, 6.0);
  losses.Add(1024, 7.0);
  EXPECT_EQ(losses.Table(),
            "positions           nats/token   predicted tokens\n"
            "0-63                   1.50000                  2\n"
            "64-127                 5.50000                  2\n"
            "1024-2047              7.00000                  1\n");
}

}  // namespace
}  // namespace t2r::convert
