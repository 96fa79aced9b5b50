using System.Text;
using Bunraku.Engines;

namespace Bunraku.Differential;

/// <summary>Runs random programs on two engines until something differs, and makes differing ones small.</summary>
public sealed class ProgramFuzzer : IDisposable
{
    /// <summary>Programs on one pair of guests before it is made anew, so that a difference can be found again from there.</summary>
    private const ulong ProgramsPerPair = 256;

    private readonly IX86Engine _subject, _reference;
    private readonly CpuModel _model;
    private readonly ProgramGenerator _generator;
    private EnginePair? _pair;
    private ulong _pairFrom;
    private ulong _exitsBefore, _flushesBefore, _entriesBefore;

    public ProgramFuzzer(IX86Engine subject, IX86Engine reference, CpuModel model)
    {
        _subject = subject;
        _reference = reference;
        _model = model;
        _generator = new ProgramGenerator(model);
    }

    /// <summary>Only programs of this mode, or of all modes.</summary>
    public ProgramMode? Mode { get; init; }

    /// <summary>The subject runs programs directly: see <see cref="EnginePair"/>.</summary>
    public bool Synchronous
    {
        get;
        init
        {
            field = value;
            _generator = new ProgramGenerator(_model) { Interrupted = value };
        }
    }

    /// <summary>Instructions that the subject has retired so far; of a program that lost its way no more than it was allowed.</summary>
    public ulong Retired { get; private set; }

    public ulong Programs { get; private set; }
    public ulong Exceptions { get; private set; }
    public ulong TimedOut { get; private set; }
    public ulong TripleFaults { get; private set; }
    /// <summary>Exits that were compared.</summary>
    public ulong Exits => _exitsBefore + (ulong)(_pair?.Exits ?? 0);

    /// <summary>How often the subject gave all code up.</summary>
    public ulong CodeFlushes => _flushesBefore + (_pair?.CodeFlushes ?? 0);

    /// <summary>How often the subject ran programs directly.</summary>
    public ulong DirectEntries => _entriesBefore + (_pair?.DirectEntries ?? 0);

    /// <summary>Runs the program number <paramref name="seed"/>. Null when nothing differs, else a report with a program as small as possible.</summary>
    public string? Run(ulong seed)
    {
        if (_pair == null || _pair.IsBroken || seed % ProgramsPerPair == 0) Renew(seed);
        GuestProgram program = _generator.Generate(seed, Mode);
        byte[]? image = _pair!.Image(program);
        if (image == null) return null;
        ProgramResult result = _pair.Run(program, image);
        Programs++;
        Retired += Math.Min(result.Retired, EnginePair.MostInstructions);
        Exceptions += result.Exceptions;
        if (result.TimedOut) TimedOut++;
        if (result.Ending == ExitReason.TripleFault) TripleFaults++;
        return result.Difference == null ? null : Reduce(program, result);
    }

    /// <summary>The program number <paramref name="seed"/> in text.</summary>
    public string Print(ulong seed)
    {
        if (_pair == null) Renew(seed);
        GuestProgram program = _generator.Generate(seed, Mode);
        byte[]? image = _pair!.Image(program);
        return $"{program.Mode}, {program.Iterations} iterations\n{(image == null ? "too long" : program.Disassemble(image))}";
    }

    private void Renew(ulong seed)
    {
        if (_pair != null)
        {
            _exitsBefore += (ulong)_pair.Exits;
            _flushesBefore += _pair.CodeFlushes;
            _entriesBefore += _pair.DirectEntries;
            _pair.Dispose();
        }
        _pair = new EnginePair(_subject, _reference, _model, Synchronous);
        _pairFrom = seed;
    }

    private string Reduce(GuestProgram program, ProgramResult first)
    {
        var text = new StringBuilder($"seed {program.Seed}: {first.Difference}\n");
        Renew(program.Seed);
        ulong from = _pairFrom;
        if (Attempt(program) is not { Difference: not null } again)
        {
            text.Append($"    not again on fresh guests: run from seed {program.Seed - program.Seed % ProgramsPerPair} on, or the one where this run began\n");
            text.Append(program.Disassemble(_pair!.Image(program)!));
            Renew(program.Seed);
            return text.ToString();
        }
        var removed = new HashSet<int>();
        int[] groups = [.. program.Units.Select(u => u.Group).Where(g => g != 0).Distinct()];
        for (int chunk = Math.Max(1, groups.Length / 2); chunk >= 1; chunk /= 2)
        {
            int[] left = [.. groups.Where(g => !removed.Contains(g))];
            for (int at = 0; at < left.Length; at += chunk)
            {
                HashSet<int> attempt = [.. removed, .. left.Skip(at).Take(chunk)];
                if (Attempt(program.Without(attempt)) is not { Difference: not null } result) continue;
                removed = attempt;
                again = result;
            }
        }
        GuestProgram small = program.Without(removed);
        text.Append($"  reduced from {program.Units.Count} to {small.Units.Count(u => u.Length > 0)} pieces, {small.Iterations} iterations: " +
            $"{again.Difference}\n");
        byte[] image = _pair!.Image(small)!;
        text.Append(small.Disassemble(image));
        Renew(program.Seed);
        return text.ToString();
    }

    private ProgramResult? Attempt(GuestProgram program)
    {
        if (_pair!.IsBroken) Renew(program.Seed);
        byte[]? image = _pair.Image(program);
        return image == null ? null : _pair.Run(program, image);
    }

    public void Dispose() => _pair?.Dispose();
}
