// k6: streams of generations over connections of their own. ADDRESS: the server's; PROTO: the folder of its
// proto files. Fails if a call does or brings fewer tokens than were asked for; how long anything takes does not
// matter. The last line of stdout is the figures as JSON.
import grpc from 'k6/net/grpc';
import { check } from 'k6';
import { Counter, Trend } from 'k6/metrics';

const WANTED = 32;
const client = new grpc.Client();
client.load([__ENV.PROTO], 't2r/v1/generation.proto');
const tokens = new Counter('tokens');
const firstToken = new Trend('first_token', true);

export const options = {
  scenarios: { streams: { executor: 'shared-iterations', vus: 8, iterations: 200, maxDuration: '60s' } },
  // Also where none was made: all iterations must come to their end.
  thresholds: { checks: ['rate==1'], tokens: [`count==${200 * WANTED}`] },
};

export default () => {
  client.connect(__ENV.ADDRESS, { plaintext: true });
  const stream = new grpc.Stream(client, 't2r.v1.Generation/Generate');
  const start = Date.now();
  let got = 0;
  stream.on('data', (message) => {
    if (message.delta) {
      if (got === 0) firstToken.add(Date.now() - start);
      got += message.delta.tokenIds.length;
    } else if (message.finished) {
      // Here rather than at the end, an event that k6 loses now and then.
      check(got, { 'all tokens': () => got === WANTED });
      tokens.add(got);
    }
  });
  stream.on('error', (error) => {
    check(error, { 'no error': () => false });
    console.error(JSON.stringify(error));
  });
  stream.on('end', () => client.close());
  stream.write({ text: 'In the beginning', max_tokens: WANTED, ignore_eos: true });
  stream.end();
};

export function handleSummary(data) {
  const value = (metric, kind) => Math.round(data.metrics[metric].values[kind] * 10) / 10;
  const figures = {
    streams: value('iterations', 'count'),
    streams_a_second: value('iterations', 'rate'),
    tokens_a_second: value('tokens', 'rate'),
    first_token_ms: value('first_token', 'med'),
    first_token_ms_p95: value('first_token', 'p(95)'),
    stream_ms: value('iteration_duration', 'med'),
  };
  return { stdout: `${JSON.stringify(figures)}\n` };
}
