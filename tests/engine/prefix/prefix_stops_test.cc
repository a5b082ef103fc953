#include "engine/prefix/prefix_stops.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace t2r {

static void PrintTo(const PrefixStop& stop, std::ostream* out) {
  *out << stop.position << (stop.spare ? " spare" : "");
}

namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr PrefixRules kRules{1, 128};
constexpr PrefixRules kTiles{64, 128};

PrefixStop At(int64_t position) { return {position, false}; }
PrefixStop Spare(int64_t position) { return {position, true}; }

TEST(PrefixStopsTest, ANewPromptKeepsItsLastChunksEndAndSparesBeforeIt) {
  // 15 whole chunks, and 1, 2, 4 and 8 before the last.
  EXPECT_THAT(StopsOf(2020, 0, 0, kRules),
              ElementsAre(Spare(896), Spare(1408), Spare(1664), Spare(1792), At(1920)));
  EXPECT_THAT(StopsOf(257, 0, 0, kRules), ElementsAre(Spare(128), At(256)));
  EXPECT_THAT(StopsOf(256, 0, 0, kRules), ElementsAre(At(128)));
  EXPECT_THAT(StopsOf(129, 0, 0, kRules), ElementsAre(At(128)));
}

TEST(PrefixStopsTest, AShortOneStopsBeforeItsLastToken) {
  EXPECT_THAT(StopsOf(128, 0, 0, kRules), ElementsAre(At(127)));
  EXPECT_THAT(StopsOf(17, 0, 0, kRules), ElementsAre(At(16)));
  EXPECT_THAT(StopsOf(16, 0, 0, kRules), IsEmpty());
  EXPECT_THAT(StopsOf(1, 0, 0, kRules), IsEmpty());
  EXPECT_THAT(StopsOf(100, 0, 0, kTiles), ElementsAre(At(64)));
  EXPECT_THAT(StopsOf(64, 0, 0, kTiles), IsEmpty());
}

TEST(PrefixStopsTest, ABranchIsKeptWherePromptsPart) {
  EXPECT_THAT(StopsOf(2020, 1920, 2000, kRules), ElementsAre(At(2000)));
  EXPECT_THAT(StopsOf(2020, 1920, 2000, kTiles), ElementsAre(At(1984)));
  EXPECT_THAT(StopsOf(60, 0, 40, kRules), ElementsAre(At(40)));
  // What comes after it is cut into chunks from there.
  EXPECT_THAT(StopsOf(500, 0, 100, kRules), ElementsAre(At(100), Spare(228), Spare(356), At(484)))
      << "3 chunks: 228, 356 and 484";
}

TEST(PrefixStopsTest, WhatAStateHasAlreadyIsNotKeptAgain) {
  EXPECT_THAT(StopsOf(2020, 2000, 2000, kRules), IsEmpty());
  // Too little more.
  EXPECT_THAT(StopsOf(2020, 1990, 2005, kRules), IsEmpty());
  EXPECT_THAT(StopsOf(2020, 1990, 2006, kRules), ElementsAre(At(2006)));
}

TEST(PrefixStopsTest, AKnownPromptSentAgainIsABranchBeforeItsLastToken) {
  EXPECT_THAT(StopsOf(60, 0, 59, kRules), ElementsAre(At(59)));
  EXPECT_THAT(StopsOf(2020, 1920, 2019, kRules), ElementsAre(At(2019)));
}

}  // namespace
}  // namespace t2r
