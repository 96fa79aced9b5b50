using Bunraku.DeviceFuzz;

namespace Bunraku.Fuzz;

/// <summary>A guest that must not notice what runs beside it, one life after the other, on a thread of its own.</summary>
internal sealed class BystanderLives
{
    private const int Rounds = 200, RestMilliseconds = 1000;

    private readonly TaskCompletionSource _stop = new();
    private readonly Task<string?> _task;
    private int _count;

    public BystanderLives(IX86Engine engine) => _task = Task.Factory.StartNew(() => Live(engine), TaskCreationOptions.LongRunning);

    /// <summary>Lives that came to their end as they should.</summary>
    public int Count => Volatile.Read(ref _count);

    /// <summary>Something was wrong: <see cref="Stop"/> tells.</summary>
    public bool HasEnded => _task.IsCompleted;

    /// <summary>Waits for the end of the life at hand. Null when all went as it should.</summary>
    public string? Stop()
    {
        _stop.TrySetResult();
        return _task.Result;
    }

    private string? Live(IX86Engine engine)
    {
        for (; ; )
        {
            if (Bystander.Run(engine, Rounds) is { } trouble) return trouble;
            Interlocked.Increment(ref _count);
            if (_stop.Task.Wait(RestMilliseconds)) return null;
        }
    }
}
