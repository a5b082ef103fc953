#include "engine/ops/cpu/row_cut.h"

#include <gtest/gtest.h>

#include "engine/ops/cpu/thread_pool.h"

namespace t2r {
namespace {

TEST(RowCutTest, EveryRowIsInOneBlockAndNoBlockIsEmptyOrTooLong) {
  for (int64_t threads = 1; threads <= 16; ++threads) {
    for (const int64_t share_rows : {0, 1, 16}) {
      for (int64_t rows = 1; rows <= 2000; ++rows) {
        const RowCut cut(rows, share_rows, threads);
        SCOPED_TRACE(::testing::Message()
                     << rows << " rows, " << share_rows << " a share, " << threads << " threads");
        int64_t next = 0;
        for (int64_t share = 0; share < cut.shares(); ++share) {
          for (int64_t block = 0; block < cut.blocks(); ++block) {
            const Rows found = cut.Block(share, block);
            ASSERT_EQ(found.begin, next);
            ASSERT_GT(found.end, found.begin);
            ASSERT_LE(found.end - found.begin, cut.most_block_rows());
            ASSERT_LE(found.end - found.begin, kGemmMaxRows);
            next = found.end;
          }
        }
        ASSERT_EQ(next, rows);
      }
    }
  }
}

TEST(RowCutTest, BlocksAreOfAboutAsManyRowsAndOfWholeTiles) {
  // 481 = 5 · 96 + 1.
  const RowCut cut(481, 0, 1);
  EXPECT_EQ(cut.blocks(), 6);
  for (int64_t block = 0; block < 6; ++block) {
    const Rows rows = cut.Block(0, block);
    EXPECT_EQ(rows.begin % 16, 0);
    EXPECT_GE(rows.end - rows.begin, 64);
  }
}

TEST(RowCutTest, ThreadsShareRowsWhereEachHasEnough) {
  EXPECT_EQ(RowCut(31, 16, 2).shares(), 1);
  EXPECT_EQ(RowCut(32, 16, 2).shares(), 2);
  EXPECT_EQ(RowCut(47, 16, 3).shares(), 1);
  EXPECT_EQ(RowCut(2000, 0, 2).shares(), 1);
}

// What both kinds of cut are for.
TEST(RowCutTest, AThreadHasTheSameRowsInProductsAndInOtherOps) {
  for (int threads = 1; threads <= 5; ++threads) {
    const ThreadPool pool(threads);
    for (int64_t rows = 16 * threads; rows <= 300; ++rows) {
      const RowCut cut(rows, 16, threads);
      ASSERT_EQ(cut.shares(), threads);
      for (const int64_t wanted : {int64_t{threads}, int64_t{2 * threads + 1}, rows}) {
        const int64_t chunks = RowChunks(rows, wanted, threads);
        for (int thread = 0; thread < threads; ++thread) {
          const ThreadPool::Tasks tasks = pool.ShareOf(thread, chunks);
          EXPECT_EQ(RowChunk(rows, tasks.first, chunks).begin, cut.Block(thread, 0).begin);
          EXPECT_EQ(RowChunk(rows, tasks.end - 1, chunks).end,
                    cut.Block(thread, cut.blocks() - 1).end);
        }
      }
    }
  }
}

TEST(RowCutTest, LittleWorkIsFewChunks) {
  EXPECT_EQ(RowChunks(64, 0, 4), 1);
  EXPECT_EQ(RowChunks(64, 3, 4), 3);
  EXPECT_EQ(RowChunks(64, 7, 4), 4);
  EXPECT_EQ(RowChunks(64, 1000, 4), 16);
  EXPECT_EQ(RowChunks(6, 1000, 4), 4);
  EXPECT_EQ(RowChunks(2, 1000, 4), 2);
}

}  // namespace
}  // namespace t2r
