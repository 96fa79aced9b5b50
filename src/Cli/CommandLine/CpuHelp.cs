using System.Text;
using Bunraku.Processor.X86;
using Bunraku.Sessions.Monitoring;

namespace Bunraku.Cli.CommandLine;

/// <summary>What <c>--cpu help</c> shows: the models, each by what it adds to another, and the features.</summary>
internal static class CpuHelp
{
    public static string Text(int width)
    {
        IReadOnlyList<CpuModel> models = CpuModels.All;
        var text = new StringBuilder();
        text.Append(TextLayout.Paragraph("--cpu MODEL[,+FEATURE][,-FEATURE]...", width));
        text.Append("\nModels:\n").Append(TextLayout.Definitions([.. models.Select((m, n) => (m.Name, Describe(m, models.Take(n))))], width));
        text.Append("\nFeatures:\n").Append(Indented(string.Join(' ', CpuModels.FeatureNames), width));
        string[] lacking = [.. CpuModels.FeatureNames.Where(n => !CpuModels.OnThisHost(n))];
        if (lacking.Length > 0) text.Append("\nThis host's processor lacks, so every model here:\n").Append(Indented(string.Join(' ', lacking), width));
        return text.ToString();
    }

    private static string Indented(string words, int width) => string.Concat(TextLayout.Wrap(words, Math.Max(1, width - 2)).Select(l => $"  {l}\n"));

    /// <summary>Vendor, and the difference from the nearest model before.</summary>
    private static string Describe(CpuModel model, IEnumerable<CpuModel> before)
    {
        string vendor = $"{(model.IsAmd ? "AMD" : "Intel")} family {FamilyName(model.Family)}{(model.Name == CpuModels.Default ? ", the default" : "")}: ";
        CpuModel? near = before.MinBy(m => m.Features.Except(model.Features).Count() + model.Features.Except(m.Features).Count());
        if (near is null) return vendor + Names(model.Features);
        IEnumerable<CpuFeature> less = near.Features.Except(model.Features);
        return $"{vendor}{near.Name} with {Names(model.Features.Except(near.Features))}{(less.Any() ? $", without {Names(less)}" : "")}";
    }

    /// <summary>As the vendors write it: Intel's are decimal, AMD's hexadecimal from 10h on.</summary>
    private static string FamilyName(uint family) => family < 0x10 ? $"{family}" : $"{family:x}h";

    private static string Names(IEnumerable<CpuFeature> features) => string.Join(' ', features.Select(CpuModels.Name).Order());
}
