namespace Bunraku.Processor.X86;

/// <summary>
/// The arenas of decoded code, of which one is filled at a time. What was decoded and translated while it was is given up together: the oldest first, as long
/// as that is not needed again soon. So the working set of a program that fits stays, but for what comes round, most of one that does not fit, too, and no
/// guest waits until everything is made anew. One thread.
/// </summary>
/// <remarks>Invariant: a block lies in the arena of its number; its translations may have been made when another one was filled.</remarks>
internal sealed unsafe class Generations : IDisposable
{
    private readonly CodeCacheSizes _sizes;
    /// <summary>By number; null: never used.</summary>
    private readonly BlockArena?[] _arenas;
    /// <summary>Numbers in the order in which they are filled, the one that is filled now at <see cref="_position"/>.</summary>
    private readonly List<int> _order = [];
    private int _position;
    private int _decoded, _decodedAgain; // in the present generation: blocks, and those that had been given up before
    private readonly bool[] _used; // by number: since the last time that a generation was to be chosen, as far as somebody told

    public Generations(CodeCacheSizes sizes)
    {
        _sizes = sizes;
        _arenas = new BlockArena?[sizes.MostGenerations];
        _used = new bool[sizes.MostGenerations];
        for (int n = 0; n < sizes.Generations; n++) _order.Add(n);
        Current = Open(0);
    }

    /// <summary>What is filled now.</summary>
    public BlockArena Current { get; private set; }

    public int Number => _order[_position];

    public int Count => _order.Count;

    /// <summary>Bytes of operations and blocks, and how many there can be as things stand. Any thread, approximately.</summary>
    public (ulong Used, ulong Size) Bytes
    {
        get
        {
            ulong used = 0;
            foreach (BlockArena? arena in _arenas) used += arena?.Bytes.Used ?? 0;
            return (used, (ulong)Count * Current.Bytes.Size);
        }
    }

    private BlockArena Open(int number) => _arenas[number] ??= new BlockArena(_sizes);

    /// <summary>A block was decoded.</summary>
    /// <param name="wasThere">It had been given up not long ago.</param>
    public void NoteDecoded(bool wasThere)
    {
        _decoded++;
        if (wasThere) _decodedAgain++;
    }

    /// <summary>Code of a generation has run.</summary>
    public void NoteUse(int number) => _used[number] = true;

    /// <summary>
    /// The program needs more than there may be, all the time: what fills the present generation now was in it before, and nothing that is elsewhere can be
    /// given up instead.
    /// </summary>
    public bool IsCrowded { get; private set; }

    /// <summary>Another generation is filled from now on, or the same once more. False: it holds code, which is to be given up.</summary>
    public bool Advance()
    {
        int next = (_position + 1) % _order.Count;
        bool isEmpty = _arenas[_order[next]] is not { IsEmpty: false };
        IsCrowded = false;
        if (!isEmpty && 2 * _decodedAgain > _decoded)
        {
            // What fills it was here before: the program needs more than there is.
            if (Count < _sizes.MostGenerations)
            {
                next = _position + 1;
                _order.Insert(next, Count);
                isEmpty = true;
            }
            else
            {
                next = FindUnused();
                IsCrowded = next == _position;
            }
        }
        Array.Clear(_used);
        _position = next;
        Current = Open(Number);
        _decoded = _decodedAgain = 0;
        return isEmpty;
    }

    /// <summary>
    /// The oldest generation of which nothing has run lately; if there is none the present one: a program that goes round in more code than there may be would
    /// find nothing of it if always the oldest were given up.
    /// </summary>
    private int FindUnused()
    {
        for (int n = 1; n < _order.Count; n++)
        {
            int position = (_position + n) % _order.Count;
            if (!_used[_order[position]]) return position;
        }
        return _position;
    }

    /// <summary>Both operations lie in the same arena.</summary>
    public bool AreTogether(Insn* one, Insn* other)
    {
        foreach (BlockArena? arena in _arenas)
        {
            if (arena != null && arena.Holds(one)) return arena.Holds(other);
        }
        return false;
    }

    /// <summary>Nothing is left in any.</summary>
    public void Clear()
    {
        foreach (BlockArena? arena in _arenas) arena?.Clear();
        _decoded = _decodedAgain = 0;
        IsCrowded = false;
        Array.Clear(_used);
    }

    public void Dispose()
    {
        foreach (BlockArena? arena in _arenas) arena?.Dispose();
    }
}
