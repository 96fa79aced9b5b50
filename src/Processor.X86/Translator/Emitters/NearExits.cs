namespace Bunraku.Processor.X86;

/// <summary>
/// Branches that are not taken on the usual way. JRCXZ is the only conditional branch that reads no flags. It jumps when RCX is zero, and checks find zero when
/// all is well; but a branch that is taken needs a place in the host's branch target buffer, and a large program has more checks than that has places: then
/// each costs as much as a mispredicted branch. So zero is made something else first, and JRCXZ leads to a jump near by, which leads to the cold code.
/// In loops, which the host remembers, the shorter form is faster.
/// </summary>
internal sealed class NearExits(Emission e)
{
    /// <summary>JRCXZ reaches so far, counted from the next instruction.</summary>
    private const int Reach = 127;
    /// <summary>What one check may take at most, up to the next place where somebody looks whether the jumps are still within reach.</summary>
    private const int Margin = 64;
    private const int ShortJumpLength = 2;

    /// <summary>Offsets of the operands of JRCXZ, and where the jumps near by lead.</summary>
    private readonly List<(int Site, HostLabel Target)> _sites = [];
    /// <summary>The first of them, so many, have their jump already.</summary>
    private int _placed;

    /// <summary>The shorter form is used, whose branch is taken.</summary>
    public bool Taken { get; set; }

    public void Clear()
    {
        _sites.Clear();
        _placed = 0;
    }

    public (int Count, int Placed) Here => (_sites.Count, _placed);

    /// <summary>Takes back what was added since <see cref="Here"/> was <paramref name="to"/> and the code had <paramref name="length"/> bytes.</summary>
    public void GoBack((int Count, int Placed) to, int length)
    {
        // Jumps that were put into what is taken back are not there any more; their labels live on.
        for (int n = to.Placed; n < Math.Min(_placed, to.Count); n++) _sites[n].Target.Waiting.RemoveAll(site => site >= length);
        _sites.RemoveRange(to.Count, _sites.Count - to.Count);
        _placed = to.Placed;
    }

    /// <summary>The jumps that are still wanted cannot be put here any more.</summary>
    public bool AreOutOfReach => IsFar(0);

    /// <summary>There are some, and it is a good time to put their jumps behind the next <paramref name="length"/> bytes.</summary>
    public bool AreWanted(int length) => !IsFar(length) && IsFar(Reach / 2);

    private bool IsFar(int further) => _placed < _sites.Count && e.Asm.Length + further + ShortJumpLength - (_sites[_placed].Site + 1) > Reach;

    /// <summary>Puts the jumps that are wanted here.</summary>
    /// <param name="between">Execution comes from above and goes on below.</param>
    public void Place(bool between)
    {
        if (_placed == _sites.Count) return;
        HostLabel below = e.NewLabel();
        if (between) e.Asm.ShortJump(below);
        for (; _placed < _sites.Count; _placed++)
        {
            e.Asm.PlaceShort(_sites[_placed].Site);
            e.Asm.Jump(_sites[_placed].Target);
        }
        e.Asm.Place(below);
    }

    /// <summary>To a place that may be far away if RCX is zero.</summary>
    public void LeaveIfZero(HostLabel target)
    {
        if (Taken)
        {
            e.JumpIfCountZero(target);
            return;
        }
        PlaceIfFar();
        Branch(target);
    }

    /// <summary>To a place that may be far away unless RCX, which is below 2^32, is zero. RCX is lost.</summary>
    public void LeaveUnlessZero32(HostLabel target) => LeaveUnlessZero(target, wide: false);

    /// <summary>To a place that may be far away unless RCX, which is below 2^56, is zero. RCX is lost.</summary>
    public void LeaveUnlessZero56(HostLabel target) => LeaveUnlessZero(target, wide: true);

    private void LeaveUnlessZero(HostLabel target, bool wide)
    {
        if (Taken)
        {
            e.JumpIfCountNotZero(target);
            return;
        }
        PlaceIfFar();
        Invert(wide);
        Branch(target);
    }

    /// <summary>
    /// Makes something else of zero in RCX, which is below 2^56 if <paramref name="wide"/>, else below 2^32, and zero of everything else: for the JRCXZ that
    /// must follow, which is a JECXZ where it is not wide.
    /// </summary>
    public void Invert(bool wide)
    {
        // Of zero minus one the highest byte, or the upper half, is all ones, of the others it is zero.
        e.Asm.Lea(HostRegisters.Scratch, HostRegisters.Scratch, -1);
        e.Asm.RotateScratchRight(wide ? 56 : 32);
        if (wide) e.Asm.Bytes(0x0F, 0xB6, 0xC9); // MOVZX ECX, CL
        else e.Asm.WriteByte(0x67); // the prefix of JECXZ
    }

    private void PlaceIfFar()
    {
        if (IsFar(Margin) && !AreOutOfReach) Place(between: true);
    }

    private void Branch(HostLabel target)
    {
        e.Asm.WriteByte(0xE3);
        _sites.Add((e.Asm.Length, target));
        e.Asm.WriteByte(0);
    }
}
