namespace Bunraku.Machine.Virtio.Files;

/// <summary>
/// What guests have of a folder, by one protocol: the session that is under way, and those before it that were not closed yet, which takes its time. Any
/// thread.
/// </summary>
internal sealed class FolderSessions<T> : IDisposable where T : class, IDisposable
{
    private readonly Lock _lock = new();
    private readonly List<T> _all = []; // those that were not closed
    private T? _current;

    /// <summary>Null: none was begun since the last one ended.</summary>
    public T? Current => Volatile.Read(ref _current);

    /// <summary>A session begins. Another one, which has begun at the same time by another queue, is over.</summary>
    public void Begin(T session)
    {
        lock (_lock) _all.Add(session);
        if (Interlocked.Exchange(ref _current, session) is { } other) new Remains(this, other).Dispose();
    }

    /// <inheritdoc cref="IFolderServer.Reset"/>
    public IDisposable? Reset() => Interlocked.Exchange(ref _current, null) is { } old ? new Remains(this, old) : null;

    private sealed class Remains(FolderSessions<T> owner, T session) : IDisposable
    {
        public void Dispose()
        {
            lock (owner._lock) owner._all.Remove(session);
            session.Dispose();
        }
    }

    /// <summary>Closes all that guests have left open.</summary>
    public void Dispose()
    {
        lock (_lock)
        {
            _current = null;
            foreach (T session in _all) session.Dispose();
            _all.Clear();
        }
    }
}
