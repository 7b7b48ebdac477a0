<?php
// Every cell of PDO's pgsql.

const TARGET = 'shop.prod';
const BY_CHOICE = 'pgferry';
const USER = 'app@shop.prod';
const BIG = 64 << 20;
const ROWS = 10000;
ini_set('memory_limit', '1G');

function say(array $what): void
{
    echo json_encode($what), "\n";
}

function same(mixed $found, mixed $wanted): void
{
    if ($found !== $wanted) {
        throw new Exception(substr(var_export($found, true), 0, 300) . ' is not ' . substr(var_export($wanted, true), 0, 300));
    }
}

function connect(string $user = USER, string $database = 'app', string $more = ''): Pdo\Pgsql
{
    $where = 'host=' . getenv('CLIENT_HOST') . ';port=' . getenv('CLIENT_PORT') . ';sslmode=' . getenv('CLIENT_TLS');
    return new Pdo\Pgsql("pgsql:$where;dbname=$database$more", $user);
}

function value(PDO $one, string $sql): mixed
{
    // Emulated: a Query message.
    $statement = $one->prepare($sql, [PDO::ATTR_EMULATE_PREPARES => true]);
    $statement->execute();
    return $statement->fetchColumn();
}

function fails(callable $what): PDOException
{
    try {
        $what();
    } catch (PDOException $error) {
        return $error;
    }
    throw new Exception('no error came');
}

function who(string $user, string $database, string $wanted): void
{
    same(value(connect($user, $database), "select current_user || '/' || current_database()"), $wanted);
}

// At connect PDO has a code of its own, and libpq's whole text.
function refused(string $user, string $database, string ...$words): string
{
    $message = fails(fn() => connect($user, $database))->getMessage();
    foreach ([...$words, 'HINT:'] as $word) {
        same(str_contains($message, $word), true);
    }
    return 'message, hint';
}

function lines(): array
{
    return array_map(fn($n) => "$n\tline $n\n", range(0, ROWS - 1));
}

$cells = [
    'connect' => fn() => who(BY_CHOICE, TARGET, 'app/app'),
    'direct TLS' => fn() => same(value(connect(more: ';sslnegotiation=direct'), "select 'on'"), 'on'),
    'database name' => function () {
        who(BY_CHOICE, TARGET, 'app/app');
        who('reporting', TARGET, 'reporting/app');
    },
    'role@target' => function () {
        who(USER, 'app', 'app/app');
        who(USER, 'postgres', 'app/postgres');
    },
    'simple query' => fn() => same(value(connect(), "select 'Fähre ' || 6 * 7"), 'Fähre 42'),
    'prepared' => function () {
        $statement = connect()->prepare("select 'the ' || ?::text");
        foreach (['one', 'two', 'three'] as $word) {
            $statement->execute([$word]);
            same($statement->fetchColumn(), "the $word");
        }
    },
    'transaction' => function () {
        $one = connect();
        $one->exec('create temp table t (n int)');
        $one->beginTransaction();
        $one->exec('insert into t values (1)');
        $one->rollBack();
        same(value($one, 'select count(*) from t'), 0);
        $one->beginTransaction();
        $one->exec('insert into t values (1)');
        $one->commit();
        same(value($one, 'select count(*) from t'), 1);
    },
    'COPY in' => function () {
        $one = connect();
        $one->exec('create temp table t (n int, line text)');
        same($one->copyFromArray('t', lines()), true);
        same(value($one, 'select count(*) from t'), ROWS);
    },
    'COPY out' => function () {
        $one = connect();
        $one->exec("create temp table t as select n, 'line ' || n from generate_series(0, " . (ROWS - 1) . ') n');
        same($one->copyToArray('t'), lines());
    },
    'error' => function () {
        $one = connect();
        same(fails(fn() => $one->query('select 1 / 0'))->errorInfo[0], '22012');
        same(value($one, "select 'on'"), 'on');
        $one->beginTransaction();
        same(fails(fn() => $one->query('select nothing'))->errorInfo[0], '42703');
        same(fails(fn() => value($one, "select 'on'"))->errorInfo[0], '25P02');
        $one->rollBack();
        same(value($one, "select 'on'"), 'on');
    },
    'notice' => function () {
        $one = connect();
        $heard = [];
        $one->setNoticeCallback(function ($notice) use (&$heard) {
            $heard[] = trim($notice);
        });
        $one->exec("do $$ begin raise notice 'ahoy'; end $$");
        same($heard, ['NOTICE:  ahoy']);
    },
    'LISTEN' => function () {
        $one = connect();
        $one->exec('listen pdo_pgsql');
        connect()->exec("notify pdo_pgsql, 'ahoy'");
        same($one->getNotify(PDO::FETCH_ASSOC, 100000)['payload'], 'ahoy');
    },
    '64 MiB' => function () {
        $one = connect();
        $statement = $one->prepare('select length(?::text)');
        $statement->execute([str_repeat('x', BIG)]);
        same($statement->fetchColumn(), BIG);
        same(strlen(value($one, "select repeat('y', " . BIG . ')')), BIG);
    },
    'reconnect' => function () {
        $one = connect();
        same(value(connect(), 'select pg_terminate_backend(' . $one->getPid() . ')'), true);
        fails(fn() => $one->query("select 'on'"));
        same(value(connect(), "select 'on'"), 'on');
    },
    '20 at once' => function () {
        $all = array_map(fn() => connect(), range(1, 20));
        same(count(array_unique(array_map(fn($one) => value($one, 'select pg_backend_pid()'), $all))), 20);
    },
    'wrong cluster' => fn() => refused(BY_CHOICE, 'nowhere.prod', 'nowhere'),
    'wrong role' => fn() => refused('nobody@shop.prod', 'app', 'nobody', 'shop.prod'),
];

say(['version' => PHP_MAJOR_VERSION . '.' . PHP_MINOR_VERSION]);
foreach ($cells as $cell => $run) {
    if ($cell === 'direct TLS' && getenv('CLIENT_TLS') !== 'require') {
        continue;
    }
    try {
        say(['cell' => $cell, 'ok' => true, 'detail' => $run() ?? '']);
    } catch (Throwable $error) {
        say(['cell' => $cell, 'ok' => false, 'detail' => (string) $error]);
    }
}
